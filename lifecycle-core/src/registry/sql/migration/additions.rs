//! Tables that were added after a release. The previous release ignores them, so they are no
//! migration of their own: with a new migration, that release would reject the database, and a
//! downgrade would be impossible.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, binary, boolean, json_binary, text, timestamp_with_time_zone,
};

/// Creates the tables that do not exist yet.
pub(super) async fn up(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    for table in tables() {
        manager.create_table(table).await?;
    }
    Ok(())
}

fn tables() -> [TableCreateStatement; 6] {
    [
        Table::create()
            .table("revisions")
            .if_not_exists()
            .col(big_integer("generation").primary_key())
            .col(json_binary("note"))
            .col(timestamp_with_time_zone("created_at"))
            .take(),
        Table::create()
            .table("declared_chunks")
            .if_not_exists()
            .col(big_integer("generation"))
            .col(text("name"))
            .primary_key(Index::create().col("generation").col("name"))
            .take(),
        Table::create()
            .table("chunks")
            .if_not_exists()
            .col(text("name").primary_key())
            .col(timestamp_with_time_zone("stored_at"))
            .col(binary("sealed"))
            .take(),
        Table::create()
            .table("volumes")
            .if_not_exists()
            .col(text("node"))
            .col(text("volume"))
            .col(boolean("missing"))
            .primary_key(Index::create().col("node").col("volume"))
            .take(),
        Table::create()
            .table("tokens")
            .if_not_exists()
            .col(text("id").primary_key())
            .col(binary("sealed"))
            .take(),
        Table::create()
            .table("answers")
            .if_not_exists()
            .col(text("name").primary_key())
            .col(text("request"))
            .col(json_binary("answer"))
            .col(timestamp_with_time_zone("given_at"))
            .take(),
    ]
}
