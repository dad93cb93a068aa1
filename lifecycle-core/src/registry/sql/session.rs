//! Wraps a transaction and converts values to the format of the tables. In SQLite, times are RFC
//! 3339 text with six decimals and `Z`, so that times can be sorted as text. In PostgreSQL, NUL
//! characters in strings are replaced, because PostgreSQL rejects them.

use async_trait::async_trait;
use chrono::SecondsFormat;
use sea_orm::{
    ConnectionTrait, DatabaseBackend, DatabaseTransaction, DbErr, ExecResult, QueryResult,
    Statement, Value,
};
use serde_json::Value as Json;

/// A transaction that converts values to the format of the tables.
#[derive(Debug)]
pub(super) struct Session(DatabaseTransaction);

impl Session {
    pub(super) fn new(transaction: DatabaseTransaction) -> Self {
        Self(transaction)
    }

    pub(super) fn is_postgres(&self) -> bool {
        self.0.get_database_backend() == DatabaseBackend::Postgres
    }

    pub(super) async fn commit(self) -> Result<(), DbErr> {
        self.0.commit().await
    }

    pub(super) async fn rollback(self) -> Result<(), DbErr> {
        self.0.rollback().await
    }
}

#[async_trait]
impl ConnectionTrait for Session {
    fn get_database_backend(&self) -> DatabaseBackend {
        self.0.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.0.execute_raw(converted(statement)).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.0.execute_unprepared(sql).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.0.query_one_raw(converted(statement)).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.0.query_all_raw(converted(statement)).await
    }
}

fn converted(mut statement: Statement) -> Statement {
    let postgres = statement.db_backend == DatabaseBackend::Postgres;
    for value in statement.values.iter_mut().flat_map(|values| &mut values.0) {
        if postgres {
            without_nul(value);
        } else if let Value::ChronoDateTimeUtc(time) = value {
            let text = time.map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true));
            *value = Value::String(text);
        }
    }
    statement
}

fn without_nul(value: &mut Value) {
    match value {
        Value::String(Some(text)) => replace_nul(text),
        Value::Json(Some(json)) => replace_nul_in_json(json),
        _ => {}
    }
}

fn replace_nul(text: &mut String) {
    if text.contains('\0') {
        *text = text.replace('\0', "\u{fffd}");
    }
}

fn replace_nul_in_json(json: &mut Json) {
    match json {
        Json::String(text) => replace_nul(text),
        Json::Array(values) => values.iter_mut().for_each(replace_nul_in_json),
        Json::Object(fields) => {
            if fields.keys().any(|key| key.contains('\0')) {
                *fields = std::mem::take(fields)
                    .into_iter()
                    .map(|(mut key, value)| {
                        replace_nul(&mut key);
                        (key, value)
                    })
                    .collect();
            }
            fields.values_mut().for_each(replace_nul_in_json);
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;

    fn stored(backend: DatabaseBackend, value: impl Into<Value>) -> Value {
        let statement = Statement::from_sql_and_values(backend, "SELECT $1", [value.into()]);
        converted(statement).values.unwrap().0.remove(0)
    }

    #[test]
    fn times_in_sqlite_are_text_of_fixed_length() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1_500_000, "1970-01-01T00:00:01.500000Z"),
        ] {
            let time = DateTime::<Utc>::from_timestamp_micros(micros).unwrap();
            assert_eq!(stored(DatabaseBackend::Sqlite, time), Value::from(text));
            assert_eq!(stored(DatabaseBackend::Postgres, time), Value::from(time));
        }
    }

    #[test]
    fn postgres_text_contains_no_nul() {
        let json = serde_json::json!({"a\0": ["b\0", {"c": "\0"}], "d": 1});
        let replaced = serde_json::json!({"a\u{fffd}": ["b\u{fffd}", {"c": "\u{fffd}"}], "d": 1});
        assert_eq!(
            stored(DatabaseBackend::Postgres, json),
            Value::from(replaced)
        );
        assert_eq!(
            stored(DatabaseBackend::Postgres, "x\0"),
            Value::from("x\u{fffd}")
        );
    }
}
