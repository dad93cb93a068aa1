//! Migrates the tables to the current version. There is no downgrade: a database of a newer version
//! is rejected and not changed.

mod additions;
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

/// Migrates the tables within `transaction`, so that a failed migration leaves no changes.
pub(super) async fn up(transaction: &DatabaseTransaction, location: &str) -> Result<()> {
    if transaction.get_database_backend() == DatabaseBackend::Postgres {
        // If two managers start at the same time, the second one waits here until the tables are
        // migrated.
        const LOCK: i64 = 0x006c_6966_6563_7963;
        transaction
            .execute_raw(Statement::from_sql_and_values(
                DatabaseBackend::Postgres,
                "SELECT pg_advisory_xact_lock($1)",
                [LOCK.into()],
            ))
            .await
            .map_err(at(location))?;
    }
    let known: BTreeSet<String> = Migrator::migrations()
        .iter()
        .map(|migration| migration.name().to_owned())
        .collect();
    let newer: Vec<String> = applied(transaction)
        .await
        .map_err(at(location))?
        .into_iter()
        .filter(|version| !known.contains(version))
        .collect();
    if !newer.is_empty() {
        return Err(Error::Invalid {
            what: location.to_owned(),
            why: format!(
                "its tables were changed by a newer version of this program ({})",
                newer.join(", ")
            ),
            hint: "use that version or a later version".into(),
        });
    }
    Migrator::up(transaction, None)
        .await
        .map_err(at(location))?;
    let manager = SchemaManager::new(transaction);
    additions::up(&manager).await.map_err(at(location))
}

/// Returns the names of the applied migrations. Only reads the database, which may be of a newer
/// version.
async fn applied(transaction: &DatabaseTransaction) -> std::result::Result<Vec<String>, DbErr> {
    use sea_orm::{EntityName, EntityTrait};

    let table = seaql_migrations::Entity.table_name().to_owned();
    if !SchemaManager::new(transaction).has_table(table).await? {
        return Ok(Vec::new());
    }
    let models = seaql_migrations::Entity::find().all(transaction).await?;
    Ok(models.into_iter().map(|model| model.version).collect())
}
