//! Creates the initial tables, and the view that other services read.

use sea_orm_migration::async_trait::async_trait;
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, binary, binary_null, boolean, integer, integer_null, json_binary,
    json_binary_null, text, text_null, timestamp_with_time_zone, timestamp_with_time_zone_null,
};

/// The initial migration. Its name is stored in databases and must never change.
pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0001_registry"
    }
}

#[async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in tables() {
            manager.create_table(table).await?;
        }
        let by_replica = Index::create()
            .name("instances_by_replica")
            .table("instances")
            .col("service")
            .col("replica")
            .take();
        manager.create_index(by_replica).await?;
        let open = Index::create()
            .name("operations_by_state")
            .table("operations")
            .col("state")
            .take();
        manager.create_index(open).await?;
        for row in [
            Query::insert()
                .into_table("platform")
                .columns(["row", "first_round_done"])
                .values_panic([1.into(), false.into()])
                .take(),
            Query::insert()
                .into_table("event_counter")
                .columns(["row", "last", "oldest"])
                .values_panic([1.into(), 0.into(), 1.into()])
                .take(),
            Query::insert()
                .into_table("leases")
                .columns(["name", "epoch"])
                .values_panic(["manager".into(), 0.into()])
                .take(),
        ] {
            manager.execute(row).await?;
        }
        manager
            .get_connection()
            .execute_unprepared(
                "CREATE VIEW endpoints AS \
                 SELECT i.service AS service, s.class AS class, i.replica AS replica, \
                 i.node AS node, e.ip AS ip, e.port AS port, e.protocol AS protocol, \
                 i.ready_at AS ready_since \
                 FROM instance_endpoints e \
                 JOIN instances i ON i.container = e.container \
                 LEFT JOIN services s ON s.name = i.service",
            )
            .await?;
        Ok(())
    }
}

fn tables() -> Vec<TableCreateStatement> {
    let mut generation = ColumnDef::new("generation");
    let mut key_check = text_null("key_check");
    vec![
        Table::create()
            .table("platform")
            .col(integer("row").primary_key())
            .col(text_null("name"))
            .col(text_null("id"))
            .col(generation.big_integer().null())
            .col(boolean("first_round_done"))
            .col(text_null("manager_node"))
            .col(text_null("manager_ip"))
            .col(integer_null("manager_port"))
            .col(&mut key_check)
            .take(),
        Table::create()
            .table("declarations")
            .col(big_integer("generation").primary_key())
            .col(binary("sealed"))
            .col(timestamp_with_time_zone("created_at"))
            .take(),
        Table::create()
            .table("services")
            .col(text("name").primary_key())
            .col(text("class"))
            .col(integer("replicas"))
            .col(big_integer("generation"))
            .take(),
        Table::create()
            .table("nodes")
            .col(text("name").primary_key())
            .col(text_null("power"))
            .col(text_null("private_ip"))
            .col(text_null("public_ip"))
            .col(timestamp_with_time_zone_null("unknown_since"))
            .col(text_null("unknown_why"))
            .col(json_binary_null("observed"))
            .col(json_binary_null("engine"))
            .col(json_binary("host_keys"))
            .col(binary_null("operation"))
            .take(),
        Table::create()
            .table("instances")
            .col(text("container").primary_key())
            .col(text("service"))
            .col(integer("replica"))
            .col(text("node"))
            .col(text("digest"))
            .col(text("state"))
            .col(text_null("state_why"))
            .col(timestamp_with_time_zone_null("state_since"))
            .col(timestamp_with_time_zone_null("started_at"))
            .col(timestamp_with_time_zone_null("ready_at"))
            .take(),
        Table::create()
            .table("instance_endpoints")
            .col(text("container"))
            .col(integer("position"))
            .col(text("ip"))
            .col(integer("port"))
            .col(integer("container_port"))
            .col(text("protocol"))
            .primary_key(Index::create().col("container").col("position"))
            .foreign_key(
                ForeignKey::create()
                    .from("instance_endpoints", "container")
                    .to("instances", "container")
                    .on_delete(ForeignKeyAction::Cascade),
            )
            .take(),
        Table::create()
            .table("rejected")
            .col(text("service"))
            .col(integer("replica"))
            .col(text("digest"))
            .col(timestamp_with_time_zone("rejected_at"))
            .col(text("why"))
            .primary_key(Index::create().col("service").col("replica"))
            .take(),
        Table::create()
            .table("operations")
            .col(text("id").primary_key())
            .col(json_binary("request"))
            .col(text("state"))
            .col(timestamp_with_time_zone_null("ended_at"))
            .col(text_null("why"))
            .col(timestamp_with_time_zone("requested_at"))
            .take(),
        Table::create()
            .table("events")
            .col(big_integer("id").primary_key())
            .col(timestamp_with_time_zone("happened_at"))
            .col(text("kind"))
            .col(json_binary("subject"))
            .col(text("message"))
            .col(json_binary_null("data"))
            .take(),
        Table::create()
            .table("event_counter")
            .col(integer("row").primary_key())
            .col(big_integer("last"))
            .col(big_integer("oldest"))
            .take(),
        Table::create()
            .table("leases")
            .col(text("name").primary_key())
            .col(big_integer("epoch"))
            .col(text_null("holder"))
            .col(timestamp_with_time_zone_null("until"))
            .take(),
        Table::create()
            .table("credentials")
            .col(text("name").primary_key())
            .col(text_null("hash"))
            .col(binary_null("sealed"))
            .take(),
    ]
}
