//! Creates the table for the addresses of services in the service network.

use sea_orm_migration::async_trait::async_trait;
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::text;

/// The third migration. Its name is stored in databases and must never change.
pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0003_addresses"
    }
}

#[async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::create()
            .table("service_addresses")
            .col(text("service").primary_key())
            .col(text("address"))
            .take();
        manager.create_table(table).await
    }
}
