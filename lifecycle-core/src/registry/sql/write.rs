//! Writes the effect of a batch to the database. Each statement writes many rows.

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, OnConflict, Query};
use sea_orm::{
    ActiveModelBehavior, ActiveModelTrait, ColumnTrait, Condition, DbErr, EntityTrait,
    IntoActiveModel, Iterable, PrimaryKeyToColumn, QueryFilter,
};

use super::entity::{
    SINGLE, answer, chunk, credential, declaration, declared_chunk, event, event_counter, instance,
    instance_endpoint, node, operation, platform, rejected, revision, service, service_address,
    signed, token, unsigned, volume,
};
use super::error::at;
use super::lease;
use super::session::Session;
use crate::error::Result;
use crate::model::{Event, Generation, NewEvent};
use crate::platform::Declaration;
use crate::registry::REVISIONS_KEPT;
use crate::registry::effect::{Effect, stored, stored_event};
use crate::secret::PlatformKey;

/// The maximum number of rows per statement. SQLite limits a statement to 32,766 values.
pub(super) const ROWS: usize = 500;

/// Writes the effect of a batch to the tables.
pub(super) struct Writer<'a> {
    pub(super) session: &'a Session,
    pub(super) key: &'a PlatformKey,
    /// The name of the database in error messages.
    pub(super) location: &'a str,
    pub(super) now: DateTime<Utc>,
}

impl Writer<'_> {
    /// Writes the whole effect.
    pub(super) async fn write(&self, effect: &Effect) -> Result<()> {
        for (generation, declared) in &effect.declarations {
            self.declaration(*generation, declared).await?;
        }
        let (notes, now) = (effect.notes.iter(), stored(self.now));
        let notes = notes.map(|(generation, note)| revision::Model::of(*generation, note, now));
        self.upsert::<revision::Entity>(notes.collect::<Result<_>>()?)
            .await?;
        if let Some((generation, declared)) = effect.declarations.last() {
            self.current(*generation, declared).await?;
        }
        self.chunks(effect).await?;
        self.nodes(effect).await?;
        self.instances(effect).await?;
        self.rejected(effect).await?;
        self.volumes(effect).await?;
        self.addresses(effect).await?;
        let operations = effect.operations.values().map(operation::Model::of);
        self.upsert::<operation::Entity>(operations.collect::<Result<_>>()?)
            .await?;
        if let Some(before) = effect.delete_ended_operations {
            operation::Entity::delete_many()
                .filter(operation::Column::EndedAt.lt(before))
                .exec(self.session)
                .await
                .map_err(at(self.location))?;
        }
        let answers = effect.answers.values().map(answer::Model::from);
        self.upsert::<answer::Entity>(answers.collect()).await?;
        if let Some(before) = effect.delete_answers {
            answer::Entity::delete_many()
                .filter(answer::Column::GivenAt.lt(before))
                .exec(self.session)
                .await
                .map_err(at(self.location))?;
        }
        let credentials = effect
            .credentials
            .iter()
            .map(|(name, credential)| credential::Model::of(name, credential, self.key));
        self.upsert::<credential::Entity>(credentials.collect::<Result<_>>()?)
            .await?;
        self.tokens(effect).await?;
        if let Some(above) = effect.epoch_above {
            lease::raise_epoch(self.session, above)
                .await
                .map_err(at(self.location))?;
        }
        self.platform(effect).await
    }

    /// Assigns ids to events and writes them.
    pub(super) async fn events(&self, events: Vec<NewEvent>) -> Result<Vec<Event>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let last = unsigned(
            "event counter",
            counter(self.session, self.location).await?.last,
        )?;
        let recorded: Vec<Event> = (last + 1..)
            .zip(events)
            .map(|(id, event)| Event {
                id,
                event: stored_event(event),
            })
            .collect();
        self.numbered_events(&recorded).await?;
        event_counter::Entity::update_many()
            .col_expr(
                event_counter::Column::Last,
                Expr::value(signed(last + recorded.len() as u64)?),
            )
            .filter(event_counter::Column::Row.eq(SINGLE))
            .exec(self.session)
            .await
            .map_err(at(self.location))?;
        Ok(recorded)
    }

    /// Writes events that already have ids.
    pub(super) async fn numbered_events(&self, events: &[Event]) -> Result<()> {
        let rows = events.iter().map(event::Model::of);
        self.insert::<event::Entity>(rows.collect::<Result<_>>()?, None)
            .await
    }

    /// Deletes the oldest events; see [`crate::registry::Registry::prune_events`].
    pub(super) async fn prune_events(&self, before: DateTime<Utc>, keep: u64) -> Result<()> {
        use sea_orm::{QueryOrder, QuerySelect};

        let counter = counter(self.session, self.location).await?;
        let last = unsigned("event counter", counter.last)?;
        let too_many = signed(last.saturating_sub(keep))?;
        let kept: Option<i64> = event::Entity::find()
            .select_only()
            .column(event::Column::Id)
            .filter(event::Column::Id.gt(too_many))
            .filter(event::Column::HappenedAt.gte(stored(before)))
            .order_by_asc(event::Column::Id)
            .limit(1)
            .into_tuple()
            .one(self.session)
            .await
            .map_err(at(self.location))?;
        let oldest = kept.unwrap_or(counter.last + 1);
        if oldest == counter.oldest {
            return Ok(());
        }
        event::Entity::delete_many()
            .filter(event::Column::Id.lt(oldest))
            .exec(self.session)
            .await
            .map_err(at(self.location))?;
        event_counter::Entity::update_many()
            .col_expr(event_counter::Column::Oldest, Expr::value(oldest))
            .filter(event_counter::Column::Row.eq(SINGLE))
            .exec(self.session)
            .await
            .map_err(at(self.location))?;
        Ok(())
    }

    async fn declaration(&self, generation: Generation, declared: &Declaration) -> Result<()> {
        let row = declaration::Model::of(generation, declared, stored(self.now), self.key)?;
        self.insert::<declaration::Entity>(vec![row], None).await?;
        let oldest = signed((generation.0 + 1).saturating_sub(REVISIONS_KEPT))?;
        declaration::Entity::delete_many()
            .filter(declaration::Column::Generation.lt(oldest))
            .exec(self.session)
            .await
            .map_err(at(self.location))?;
        revision::Entity::delete_many()
            .filter(revision::Column::Generation.lt(oldest))
            .exec(self.session)
            .await
            .map_err(at(self.location))?;
        declared_chunk::Entity::delete_many()
            .filter(declared_chunk::Column::Generation.lt(oldest))
            .exec(self.session)
            .await
            .map_err(at(self.location))?;
        let chunks = declared.chunks().into_iter();
        let rows = chunks.map(|digest| declared_chunk::Model::of(generation, digest, self.key));
        self.insert::<declared_chunk::Entity>(rows.collect::<Result<_>>()?, None)
            .await
    }

    async fn chunks(&self, effect: &Effect) -> Result<()> {
        for chunk in effect.chunks.values() {
            // One row for each statement, because a row may be large.
            let row = chunk::Model::of(chunk, stored(self.now), self.key)?;
            self.upsert::<chunk::Entity>(vec![row]).await?;
        }
        let Some(before) = effect.delete_unused_chunks else {
            return Ok(());
        };
        let used = Query::select()
            .column(declared_chunk::Column::Name)
            .from(declared_chunk::Entity)
            .take();
        chunk::Entity::delete_many()
            .filter(chunk::Column::StoredAt.lt(before))
            .filter(chunk::Column::Name.not_in_subquery(used))
            .exec(self.session)
            .await
            .map_err(at(self.location))?;
        Ok(())
    }

    async fn current(&self, generation: Generation, declared: &Declaration) -> Result<()> {
        platform::Entity::update_many()
            .col_expr(platform::Column::Name, Expr::value(declared.name.as_str()))
            .col_expr(platform::Column::Id, Expr::value(declared.id.to_string()))
            .col_expr(
                platform::Column::Generation,
                Expr::value(signed(generation.0)?),
            )
            .filter(platform::Column::Row.eq(SINGLE))
            .exec(self.session)
            .await
            .map_err(at(self.location))?;
        service::Entity::delete_many()
            .exec(self.session)
            .await
            .map_err(at(self.location))?;
        let rows = declared
            .services
            .values()
            .map(|declared| service::Model::of(declared, generation))
            .collect::<Result<_>>()?;
        self.insert::<service::Entity>(rows, None).await
    }

    async fn platform(&self, effect: &Effect) -> Result<()> {
        let mut update = platform::Entity::update_many().filter(platform::Column::Row.eq(SINGLE));
        if effect.first_round_done {
            update = update.col_expr(platform::Column::FirstRoundDone, Expr::value(true));
        }
        if let Some(manager) = &effect.manager {
            update = update
                .col_expr(
                    platform::Column::ManagerNode,
                    Expr::value(manager.node.as_str()),
                )
                .col_expr(
                    platform::Column::ManagerIp,
                    Expr::value(manager.ip.to_string()),
                )
                .col_expr(
                    platform::Column::ManagerPort,
                    Expr::value(i32::from(manager.port)),
                );
        }
        if effect.first_round_done || effect.manager.is_some() {
            update.exec(self.session).await.map_err(at(self.location))?;
        }
        Ok(())
    }

    async fn nodes(&self, effect: &Effect) -> Result<()> {
        let forgotten = effect.nodes.iter().filter(|(_, put)| put.is_none());
        let forgotten: Vec<&str> = forgotten.map(|(name, _)| name.as_str()).collect();
        self.delete::<node::Entity>(node::Column::Name, &forgotten)
            .await?;
        let put = effect.nodes.values().flatten();
        let rows = put.map(|put| node::Model::of(put, self.key));
        self.upsert::<node::Entity>(rows.collect::<Result<_>>()?)
            .await
    }

    async fn instances(&self, effect: &Effect) -> Result<()> {
        use instance_endpoint::Column::Container;

        let forgotten = effect.instances.iter().filter(|(_, put)| put.is_none());
        let forgotten: Vec<&str> = forgotten.map(|(id, _)| id.0.as_ref()).collect();
        self.delete::<instance::Entity>(instance::Column::Container, &forgotten)
            .await?;
        let put: Vec<_> = effect.instances.values().flatten().collect();
        let rows = put.iter().copied().map(instance::Model::of);
        self.upsert::<instance::Entity>(rows.collect()).await?;
        let containers: Vec<&str> = put.iter().map(|p| p.container.0.as_ref()).collect();
        self.delete::<instance_endpoint::Entity>(Container, &containers)
            .await?;
        let mut rows = Vec::new();
        for instance in put {
            for (position, endpoint) in instance.endpoints.iter().enumerate() {
                let container = &instance.container.0;
                let row = instance_endpoint::Model::of(container, position, *endpoint)?;
                rows.push(row);
            }
        }
        self.insert::<instance_endpoint::Entity>(rows, None).await
    }

    async fn addresses(&self, effect: &Effect) -> Result<()> {
        let Some(addresses) = &effect.addresses else {
            return Ok(());
        };
        service_address::Entity::delete_many()
            .exec(self.session)
            .await
            .map_err(at(self.location))?;
        let rows = addresses.iter().map(service_address::Model::of).collect();
        self.insert::<service_address::Entity>(rows, None).await
    }

    async fn rejected(&self, effect: &Effect) -> Result<()> {
        let cleared = effect.rejected.iter().filter(|(_, spec)| spec.is_none());
        let cleared = cleared.map(|(id, _)| {
            Condition::all()
                .add(rejected::Column::Service.eq(id.service.as_str()))
                .add(rejected::Column::Replica.eq(i32::from(id.replica.0)))
        });
        self.delete_any::<rejected::Entity>(cleared.collect())
            .await?;
        let kept = effect.rejected.values().flatten().map(rejected::Model::of);
        self.upsert::<rejected::Entity>(kept.collect()).await
    }

    async fn volumes(&self, effect: &Effect) -> Result<()> {
        let deleted = effect.volumes.iter().filter(|(_, put)| put.is_none());
        let deleted = deleted.map(|((node, volume), _)| {
            Condition::all()
                .add(volume::Column::Node.eq(node.as_str()))
                .add(volume::Column::Volume.eq(volume.as_str()))
        });
        self.delete_any::<volume::Entity>(deleted.collect()).await?;
        let put = effect.volumes.values().flatten().map(volume::Model::of);
        self.upsert::<volume::Entity>(put.collect()).await
    }

    async fn tokens(&self, effect: &Effect) -> Result<()> {
        let deleted = effect.tokens.iter().filter(|(_, put)| put.is_none());
        let deleted: Vec<&str> = deleted.map(|(id, _)| id.as_str()).collect();
        self.delete::<token::Entity>(token::Column::Id, &deleted)
            .await?;
        let put = effect.tokens.values().flatten();
        let put = put.map(|token| token::Model::of(token, self.key));
        self.upsert::<token::Entity>(put.collect::<Result<_>>()?)
            .await
    }

    /// Deletes the rows that meet one of the conditions.
    async fn delete_any<E: EntityTrait>(&self, conditions: Vec<Condition>) -> Result<()> {
        for some in conditions.chunks(ROWS / 5) {
            let any = some.iter().cloned().fold(Condition::any(), Condition::add);
            E::delete_many()
                .filter(any)
                .exec(self.session)
                .await
                .map_err(at(self.location))?;
        }
        Ok(())
    }

    async fn delete<E: EntityTrait>(&self, column: E::Column, keys: &[&str]) -> Result<()> {
        for some in keys.chunks(ROWS) {
            E::delete_many()
                .filter(column.is_in(some.iter().copied()))
                .exec(self.session)
                .await
                .map_err(at(self.location))?;
        }
        Ok(())
    }

    /// Inserts rows. A row replaces an existing row with the same key.
    async fn upsert<E>(&self, rows: Vec<E::Model>) -> Result<()>
    where
        E: EntityTrait,
        E::Model: IntoActiveModel<E::ActiveModel>,
        E::ActiveModel: ActiveModelBehavior + Send,
    {
        let keys: Vec<String> = E::PrimaryKey::iter()
            .map(|key| sea_orm::Iden::unquoted(&key.into_column()).to_owned())
            .collect();
        let replaced = E::Column::iter().filter(|column| {
            !keys
                .iter()
                .any(|key| *key == sea_orm::Iden::unquoted(column))
        });
        let conflict =
            OnConflict::columns(E::PrimaryKey::iter().map(PrimaryKeyToColumn::into_column))
                .update_columns(replaced)
                .to_owned();
        self.insert::<E>(rows, Some(conflict)).await
    }

    async fn insert<E>(&self, rows: Vec<E::Model>, conflict: Option<OnConflict>) -> Result<()>
    where
        E: EntityTrait,
        E::Model: IntoActiveModel<E::ActiveModel>,
        E::ActiveModel: ActiveModelBehavior + Send,
    {
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            let some = rows
                .by_ref()
                .take(ROWS)
                .map(|row| row.into_active_model().reset_all());
            let mut insert = E::insert_many(some);
            if let Some(conflict) = &conflict {
                insert = insert.on_conflict(conflict.clone());
            }
            insert
                .exec_without_returning(self.session)
                .await
                .map_err(at(self.location))?;
        }
        Ok(())
    }
}

/// Returns the row from which event ids are assigned.
pub(super) async fn counter(session: &Session, location: &str) -> Result<event_counter::Model> {
    event_counter::Entity::find_by_id(SINGLE)
        .one(session)
        .await
        .and_then(|row| row.ok_or_else(|| DbErr::Type("the event counter is missing".into())))
        .map_err(at(location))
}
