//! Opens registries in SQL databases by URL: the central registry and the per-kind databases.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

use super::SqlRegistry;
use super::entity::{SINGLE, declaration, event, platform, signed, unsigned};
use super::lease;
use super::take::Use;
use super::write::counter;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::model::{Epoch, PlatformId};
use crate::platform::ManagerEndpoint;
use crate::registry::effect::Effect;
use crate::registry::kind::{follows_another, is_central};
use crate::registry::{Databases, KindDatabase, Mirrored, RegistryId};
use crate::secret::{PlatformKey, Sensitive};

/// Opens registries in SQLite and PostgreSQL databases by URL.
#[derive(Debug, Clone)]
pub struct SqlDatabases {
    clock: Arc<dyn Clock>,
}

impl SqlDatabases {
    /// Creates a factory that opens registries by URL. Leases expire by `clock` in SQLite, and by
    /// the server's clock in PostgreSQL.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }

    async fn open(&self, usage: Use, url: &Sensitive, key: &PlatformKey) -> Result<SqlRegistry> {
        SqlRegistry::open_for(usage, url.expose(), key.clone(), Arc::clone(&self.clock)).await
    }
}

#[async_trait]
impl Databases for SqlDatabases {
    async fn check(&self, url: &Sensitive, platform: PlatformId, key: &PlatformKey) -> Result<()> {
        let clock = Arc::clone(&self.clock);
        SqlRegistry::check_for(Use::CentralOf(platform), url.expose(), key.clone(), clock).await
    }

    async fn prepare(
        &self,
        url: &Sensitive,
        platform: PlatformId,
        key: &PlatformKey,
    ) -> Result<()> {
        let registry = self.open(Use::CentralOf(platform), url, key).await?;
        registry.close().await
    }

    async fn record_manager(
        &self,
        url: &Sensitive,
        key: &PlatformKey,
        endpoint: &ManagerEndpoint,
    ) -> Result<()> {
        let registry = self.open(Use::Central, url, key).await?;
        registry.record_manager(endpoint.clone()).await?;
        registry.close().await
    }

    async fn kind(
        &self,
        url: &Sensitive,
        platform: PlatformId,
        key: &PlatformKey,
    ) -> Result<Arc<dyn KindDatabase>> {
        Ok(Arc::new(self.open(Use::Kind(platform), url, key).await?))
    }
}

impl SqlRegistry {
    /// Records the manager's endpoint; see [`Databases::record_manager`].
    async fn record_manager(&self, endpoint: ManagerEndpoint) -> Result<()> {
        self.bounded(async {
            let write = self.write().await?;
            // Wait until other writes have ended, and block new ones until this write ends.
            lease::lock(&write.session).await.map_err(self.failed())?;
            let effect = Effect {
                manager: Some(endpoint),
                ..Effect::default()
            };
            self.writer(&write.session).write(&effect).await?;
            write.commit().await.map_err(self.failed())
        })
        .await
    }
}

#[async_trait]
impl KindDatabase for SqlRegistry {
    async fn follows(&self) -> Result<Option<RegistryId>> {
        self.bounded(async {
            let session = self.read().await?;
            let found = self.reader(&session).platform().await?;
            session.rollback().await.map_err(self.failed())?;
            Ok(found.follows.map(RegistryId))
        })
        .await
    }

    async fn mirror(&self, epoch: Epoch, update: Mirrored) -> Result<()> {
        self.bounded(async {
            let write = self.write().await?;
            let session = &write.session;
            let lease = lease::lock(session).await.map_err(self.failed())?;
            let found = self.reader(session).platform().await?;
            if found.registry.is_some() {
                return Err(is_central(&self.location));
            }
            let follows_it = found.follows.as_deref() == Some(&*update.of.0);
            let current = Epoch(unsigned("epoch", lease.epoch)?);
            if follows_it && epoch < current {
                return Err(Error::StaleEpoch {
                    ours: epoch,
                    current,
                });
            }
            if !follows_it && !update.replace_all {
                return Err(follows_another(&self.location));
            }
            if update.replace_all {
                self.empty(session).await?;
            }
            lease::lead_by(session, epoch)
                .await
                .map_err(self.failed())?;
            platform::Entity::update_many()
                .col_expr(platform::Column::Follows, Expr::value(update.of.0))
                .filter(platform::Column::Row.eq(SINGLE))
                .exec(session)
                .await
                .map_err(self.failed())?;
            let writer = self.writer(session);
            for (generation, _) in &update.changes.declarations {
                // Delete the stored copy. If the kinds of this database have changed, the new copy
                // differs.
                declaration::Entity::delete_many()
                    .filter(declaration::Column::Generation.eq(signed(generation.0)?))
                    .exec(session)
                    .await
                    .map_err(self.failed())?;
            }
            writer.write(&update.changes).await?;
            let counted = counter(session, &self.location).await?;
            let mut oldest = counted.oldest;
            if update.after > unsigned("event counter", counted.last)? {
                oldest = signed(update.after)? + 1;
                event::Entity::delete_many()
                    .exec(session)
                    .await
                    .map_err(self.failed())?;
            }
            writer.numbered_events(&update.events).await?;
            self.count_events(session, signed(update.through)?, oldest)
                .await?;
            write.commit().await.map_err(self.failed())
        })
        .await
    }
}
