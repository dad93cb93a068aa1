//! Adds columns for the id of a central registry, and for the id of the registry that a per-kind
//! database follows.

use sea_orm_migration::async_trait::async_trait;
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::text_null;

/// The second migration. Its name is stored in databases and must never change.
pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0002_kinds"
    }
}

#[async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // SQLite cannot add two columns in one statement.
        for column in ["registry", "follows"] {
            let add = Table::alter()
                .table("platform")
                .add_column(text_null(column))
                .take();
            manager.alter_table(add).await?;
        }
        Ok(())
    }
}
