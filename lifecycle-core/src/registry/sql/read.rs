//! Reads records from the database. Every function reads within one session, so its result is
//! consistent.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use sea_orm::{
    ColumnTrait, DbErr, EntityTrait, PrimaryKeyTrait, QueryFilter, QueryOrder, QuerySelect,
};

use super::entity::token::Opened;
use super::entity::{
    SINGLE, answer, chunk, credential, declaration, event, instance, instance_endpoint, node,
    operation, platform, rejected, revision, service_address, signed, token, unsigned, volume,
};
use super::error::at;
use super::session::Session;
use super::write::{ROWS, counter};
use crate::error::Result;
use crate::model::{Chunk, ChunkDigest, Endpoint, Generation, Operation, OperationId};
use crate::platform::{Declaration, Revision};
use crate::registry::{AnswerRecord, EventPage, Snapshot, StoredTokens};
use crate::secret::{PlatformKey, Sensitive};

/// Reads records within one session.
pub(super) struct Reader<'a> {
    pub(super) session: &'a Session,
    pub(super) key: &'a PlatformKey,
    /// The name of the database in error messages.
    pub(super) location: &'a str,
}

impl Reader<'_> {
    pub(super) async fn snapshot(&self) -> Result<Snapshot> {
        let platform = self.platform().await?;
        let mut snapshot = Snapshot {
            manager: platform.manager()?,
            first_round_done: platform.first_round_done,
            last_event: unsigned(
                "event counter",
                counter(self.session, self.location).await?.last,
            )?,
            ..Snapshot::default()
        };
        if let Some(generation) = platform.generation()? {
            let declaration = self.current_declaration(generation).await?;
            snapshot.declaration = Some((generation, declaration));
        }
        for row in self.all::<node::Entity>().await? {
            let record = row.open(self.key)?;
            snapshot.nodes.insert(record.name.clone(), record);
        }
        let mut endpoints = self.endpoints().await?;
        for row in self.all::<instance::Entity>().await? {
            let its = endpoints.remove(&row.container).unwrap_or_default();
            let record = row.open(its)?;
            let container = record.container.clone();
            snapshot.instances.insert(container, record);
        }
        for row in self.all::<rejected::Entity>().await? {
            let spec = row.open()?;
            snapshot.rejected.insert(spec.id.clone(), spec);
        }
        for row in self.all::<volume::Entity>().await? {
            let record = row.open()?;
            let key = (record.node.clone(), record.volume.clone());
            snapshot.volumes.insert(key, record);
        }
        for row in self.all::<service_address::Entity>().await? {
            let (service, address) = row.open()?;
            snapshot.addresses.insert(service, address);
        }
        Ok(snapshot)
    }

    async fn endpoints(&self) -> Result<BTreeMap<String, Vec<Endpoint>>> {
        use instance_endpoint::Column::{Container, Position};

        let rows = instance_endpoint::Entity::find()
            .order_by_asc(Container)
            .order_by_asc(Position)
            .all(self.session)
            .await
            .map_err(at(self.location))?;
        let mut endpoints: BTreeMap<String, Vec<Endpoint>> = BTreeMap::new();
        for mut row in rows {
            let container = std::mem::take(&mut row.container);
            endpoints.entry(container).or_default().push(row.open()?);
        }
        Ok(endpoints)
    }

    pub(super) async fn credential(&self, name: &str) -> Result<Option<Sensitive>> {
        let row = self.one::<credential::Entity>(name.to_owned()).await?;
        row.map(|row| row.open(self.key)).transpose()
    }

    pub(super) async fn tokens(&self) -> Result<StoredTokens> {
        let mut tokens = Vec::new();
        let mut unreadable = 0;
        for row in self.all::<token::Entity>().await? {
            match row.open(self.key) {
                Opened::Token(token) => tokens.push(*token),
                Opened::OfLaterVersion => unreadable += 1,
                Opened::OfAnotherKey => {}
            }
        }
        Ok(StoredTokens::of(tokens, unreadable))
    }

    pub(super) async fn chunk(&self, digest: ChunkDigest) -> Result<Option<Chunk>> {
        let name = chunk::name(digest, self.key);
        let row = self.one::<chunk::Entity>(name).await?;
        row.map(|row| row.open(digest, self.key)).transpose()
    }

    pub(super) async fn missing_chunks(
        &self,
        of: BTreeSet<ChunkDigest>,
    ) -> Result<BTreeSet<ChunkDigest>> {
        let named = |digest| (chunk::name(digest, self.key), digest);
        let mut missing: BTreeMap<String, ChunkDigest> = of.into_iter().map(named).collect();
        let all: Vec<String> = missing.keys().cloned().collect();
        for some in all.chunks(ROWS) {
            let found: Vec<String> = chunk::Entity::find()
                .select_only()
                .column(chunk::Column::Name)
                .filter(chunk::Column::Name.is_in(some))
                .into_tuple()
                .all(self.session)
                .await
                .map_err(at(self.location))?;
            for name in found {
                missing.remove(&name);
            }
        }
        Ok(missing.into_values().collect())
    }

    pub(super) async fn operation(&self, id: OperationId) -> Result<Option<Operation>> {
        let row = self.one::<operation::Entity>(id.to_string()).await?;
        row.map(operation::Model::open).transpose()
    }

    pub(super) async fn operations(&self, limit: u32) -> Result<Vec<Operation>> {
        let mut rows = operation::Entity::find()
            .order_by_desc(operation::Column::RequestedAt)
            .order_by_desc(operation::Column::Id)
            .limit(u64::from(limit))
            .all(self.session)
            .await
            .map_err(at(self.location))?;
        rows.reverse();
        Ok(readable(rows))
    }

    pub(super) async fn open_operations(&self) -> Result<Vec<Operation>> {
        let rows = operation::Entity::find()
            .filter(operation::Column::State.eq(operation::RUNNING))
            .order_by_asc(operation::Column::RequestedAt)
            .order_by_asc(operation::Column::Id)
            .all(self.session)
            .await
            .map_err(at(self.location))?;
        Ok(readable(rows))
    }

    pub(super) async fn answer(&self, key: &str) -> Result<Option<AnswerRecord>> {
        let row = self.one::<answer::Entity>(key.to_owned()).await?;
        Ok(row.map(AnswerRecord::from))
    }

    pub(super) async fn events(&self, after: u64, limit: u32) -> Result<EventPage> {
        let counter = counter(self.session, self.location).await?;
        let oldest = unsigned("event counter", counter.oldest)?;
        if after.saturating_add(1) < oldest || after > unsigned("event counter", counter.last)? {
            return Ok(EventPage::Gone { oldest });
        }
        let events = event::Entity::find()
            .filter(event::Column::Id.gt(signed(after)?))
            .order_by_asc(event::Column::Id)
            .limit(u64::from(limit))
            .all(self.session)
            .await
            .map_err(at(self.location))?
            .into_iter()
            .map(event::Model::open)
            .collect::<Result<_>>()?;
        Ok(EventPage::Events(events))
    }

    pub(super) async fn platform(&self) -> Result<platform::Model> {
        self.required::<platform::Entity>(SINGLE, "the row of the platform is missing")
            .await
    }

    pub(super) async fn revisions(&self) -> Result<Vec<Revision>> {
        use declaration::Column;

        let notes = self.all::<revision::Entity>().await?.into_iter();
        let keyed = |row: revision::Model| ((row.generation, row.created_at), row.open());
        let mut notes: BTreeMap<(i64, DateTime<Utc>), _> = notes.map(keyed).collect();
        let rows: Vec<(i64, DateTime<Utc>)> = declaration::Entity::find()
            .select_only()
            .columns([Column::Generation, Column::CreatedAt])
            .order_by_asc(Column::Generation)
            .into_tuple()
            .all(self.session)
            .await
            .map_err(at(self.location))?;
        let revision = |(number, at)| {
            Ok(Revision {
                generation: Generation(unsigned("generation", number)?),
                at,
                note: notes.remove(&(number, at)).flatten(),
            })
        };
        rows.into_iter().map(revision).collect()
    }

    pub(super) async fn declaration(&self, generation: Generation) -> Result<Option<Declaration>> {
        let Ok(number) = signed(generation.0) else {
            return Ok(None);
        };
        let row = self.one::<declaration::Entity>(number).await?;
        row.map(|row| row.open(self.key)).transpose()
    }

    pub(super) async fn current_declaration(&self, generation: Generation) -> Result<Declaration> {
        let number = signed(generation.0)?;
        self.required::<declaration::Entity>(number, "the current declaration is missing")
            .await?
            .open(self.key)
    }

    async fn required<E: EntityTrait>(
        &self,
        key: <E::PrimaryKey as PrimaryKeyTrait>::ValueType,
        missing: &str,
    ) -> Result<E::Model>
    where
        E::Model: Sync,
    {
        self.one::<E>(key)
            .await?
            .ok_or_else(|| at(self.location)(DbErr::Type(missing.to_owned())))
    }

    async fn one<E: EntityTrait>(
        &self,
        key: <E::PrimaryKey as PrimaryKeyTrait>::ValueType,
    ) -> Result<Option<E::Model>> {
        E::find_by_id(key)
            .one(self.session)
            .await
            .map_err(at(self.location))
    }

    async fn all<E: EntityTrait>(&self) -> Result<Vec<E::Model>> {
        E::find().all(self.session).await.map_err(at(self.location))
    }
}

/// Returns the operations that this version can read.
fn readable(rows: Vec<operation::Model>) -> Vec<Operation> {
    let read = |row: operation::Model| {
        let id = row.id.clone();
        let opened = row.open();
        if let Err(error) = &opened {
            tracing::warn!(%id, error = %error.chain(), "an operation cannot be read");
        }
        opened.ok()
    };
    rows.into_iter().filter_map(read).collect()
}
