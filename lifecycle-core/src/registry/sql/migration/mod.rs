//! The steps that bring a database's tables to the form that this version knows. They go
//! forward only, and a database that is further than that is left alone.

mod m0001_registry;
mod m0002_kinds;
mod m0003_addresses;

use std::collections::BTreeSet;

use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseTransaction, DbErr, Statement};
use sea_orm_migration::{MigrationTrait, MigratorTrait, SchemaManager, seaql_migrations};

use super::error::at;
use crate::error::{Error, Result};

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_registry::Migration),
            Box::new(m0002_kinds::Migration),
            Box::new(m0003_addresses::Migration),
        ]
    }
}

/// Brings the tables up to date within `transaction`, so that a step that fails leaves nothing.
pub(super) async fn up(transaction: &DatabaseTransaction, place: &str) -> Result<()> {
    if transaction.get_database_backend() == DatabaseBackend::Postgres {
        // Two managers that start at once: the second waits here and then finds it all done.
        const LOCK: i64 = 0x006c_6966_6563_7963;
        transaction
            .execute_raw(Statement::from_sql_and_values(
                DatabaseBackend::Postgres,
                "SELECT pg_advisory_xact_lock($1)",
                [LOCK.into()],
            ))
            .await
            .map_err(at(place))?;
    }
    let known: BTreeSet<String> = Migrator::migrations()
        .iter()
        .map(|migration| migration.name().to_owned())
        .collect();
    let newer: Vec<String> = applied(transaction)
        .await
        .map_err(at(place))?
        .into_iter()
        .filter(|version| !known.contains(version))
        .collect();
    if !newer.is_empty() {
        return Err(Error::Invalid {
            what: place.to_owned(),
            why: format!(
                "a newer version of this program has changed its tables ({})",
                newer.join(", ")
            ),
            hint: "run that version, or a later one".into(),
        });
    }
    Migrator::up(transaction, None).await.map_err(at(place))
}

/// The steps that the database has seen. Changes nothing, since it may be a newer one's.
async fn applied(transaction: &DatabaseTransaction) -> std::result::Result<Vec<String>, DbErr> {
    use sea_orm::{EntityName, EntityTrait};

    let table = seaql_migrations::Entity.table_name().to_owned();
    if !SchemaManager::new(transaction).has_table(table).await? {
        return Ok(Vec::new());
    }
    let models = seaql_migrations::Entity::find().all(transaction).await?;
    Ok(models.into_iter().map(|model| model.version).collect())
}
