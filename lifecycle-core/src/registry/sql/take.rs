//! Prepares a database for its intended use. Rejects a database that belongs to another platform or
//! has another use.

use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, PaginatorTrait, QueryFilter};

use super::SqlRegistry;
use super::entity::{
    SINGLE, answer, chunk, credential, declaration, declared_chunk, event, event_counter, instance,
    node, operation, platform, rejected, revision, service, service_address, token, volume,
};
use super::session::Session;
use crate::error::{Error, Result};
use crate::model::PlatformId;
use crate::registry::kind::is_central;
use crate::secret::new_token;

/// The intended use of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// The database is the central registry of the platform that the key belongs to.
    Central,
    /// The database is the central registry of this platform. If the platform was removed before,
    /// the database may be encrypted with a lost key.
    CentralOf(PlatformId),
    /// The database is a per-kind database of this platform.
    Kind(PlatformId),
}

impl SqlRegistry {
    /// Checks that the database is suitable for `usage`, and records the signature that identifies
    /// the encryption key. Also gives a central registry an id.
    pub(super) async fn take(&self, usage: Use, session: &Session) -> Result<()> {
        let found = self.reader(session).platform().await?;
        let is_kind = matches!(usage, Use::Kind(_));
        if found.follows.is_some() && !is_kind {
            return Err(Error::Invalid {
                what: self.location.clone(),
                why: "it contains a copy of records from a central registry".into(),
                hint: "use the database of the central registry, or an empty database".into(),
            });
        }
        if is_kind && found.follows.is_none() && found.registry.is_some() {
            return Err(is_central(&self.location));
        }
        // Reject a wrong key before anything is encrypted with that key.
        let check = self.key.sign("registry key check", b"");
        match found.key_check.as_deref() {
            Some(known) if known == check => {}
            Some(_) if self.may_forget(usage, &found, session).await? => {
                self.forget_sealed(session, is_kind).await?;
            }
            Some(_) => {
                return Err(Error::Denied {
                    what: format!("access to {}", self.location),
                    why: "the database is encrypted with the key of another platform".into(),
                    hint: "use the platform.key with which the database was created, use another \
                         database, or empty this database if it is not needed"
                        .into(),
                });
            }
            None => {}
        }
        let id = match (is_kind, found.registry) {
            (true, _) => None,
            (false, Some(id)) => Some(id),
            (false, None) => Some(new_token().expose().to_owned()),
        };
        platform::Entity::update_many()
            .col_expr(platform::Column::KeyCheck, Expr::value(check))
            .col_expr(platform::Column::Registry, Expr::value(id))
            .filter(platform::Column::Row.eq(SINGLE))
            .exec(session)
            .await
            .map_err(self.failed())?;
        Ok(())
    }

    /// Returns whether data that is encrypted with another key can be deleted. The data must belong
    /// to the same platform, and must be a copy or be left over from a removed platform.
    async fn may_forget(
        &self,
        usage: Use,
        found: &platform::Model,
        session: &Session,
    ) -> Result<bool> {
        let (Use::CentralOf(platform) | Use::Kind(platform)) = usage else {
            return Ok(false);
        };
        if found.id.as_deref() != Some(&*platform.to_string()) {
            return Ok(false);
        }
        if matches!(usage, Use::Kind(_)) {
            return Ok(true);
        }
        let services = service::Entity::find().count(session).await;
        let instances = instance::Entity::find().count(session).await;
        Ok(services.map_err(self.failed())? == 0 && instances.map_err(self.failed())? == 0)
    }

    /// In a central registry, deletes all encrypted data and keeps the history and the epoch. In a
    /// copy, deletes all data except the epoch.
    async fn forget_sealed(&self, session: &Session, is_copy: bool) -> Result<()> {
        if is_copy {
            return self.empty(session).await;
        }
        self.clear::<declaration::Entity>(session).await?;
        self.clear::<revision::Entity>(session).await?;
        self.clear::<declared_chunk::Entity>(session).await?;
        self.clear::<chunk::Entity>(session).await?;
        self.clear::<credential::Entity>(session).await?;
        // The operator of a removed platform has no valid token any more.
        self.clear::<token::Entity>(session).await?;
        self.clear::<answer::Entity>(session).await?;
        self.clear::<node::Entity>(session).await?;
        self.reset_platform(session).await
    }

    /// Deletes everything except the epoch.
    pub(super) async fn empty(&self, session: &Session) -> Result<()> {
        self.clear::<declaration::Entity>(session).await?;
        self.clear::<revision::Entity>(session).await?;
        self.clear::<declared_chunk::Entity>(session).await?;
        self.clear::<chunk::Entity>(session).await?;
        self.clear::<credential::Entity>(session).await?;
        self.clear::<token::Entity>(session).await?;
        self.clear::<answer::Entity>(session).await?;
        self.clear::<node::Entity>(session).await?;
        self.clear::<service::Entity>(session).await?;
        self.clear::<instance::Entity>(session).await?;
        self.clear::<rejected::Entity>(session).await?;
        self.clear::<volume::Entity>(session).await?;
        self.clear::<service_address::Entity>(session).await?;
        self.clear::<operation::Entity>(session).await?;
        self.clear::<event::Entity>(session).await?;
        self.count_events(session, 0, 1).await?;
        self.reset_platform(session).await
    }

    /// Sets the ids of the latest and the oldest stored event in the event counter.
    pub(super) async fn count_events(
        &self,
        session: &Session,
        last: i64,
        oldest: i64,
    ) -> Result<()> {
        event_counter::Entity::update_many()
            .col_expr(event_counter::Column::Last, Expr::value(last))
            .col_expr(event_counter::Column::Oldest, Expr::value(oldest))
            .filter(event_counter::Column::Row.eq(SINGLE))
            .exec(session)
            .await
            .map_err(self.failed())?;
        Ok(())
    }

    async fn clear<E: EntityTrait>(&self, session: &Session) -> Result<()> {
        E::delete_many()
            .exec(session)
            .await
            .map_err(self.failed())?;
        Ok(())
    }

    async fn reset_platform(&self, session: &Session) -> Result<()> {
        use platform::Column::{
            FirstRoundDone, Follows, Generation, ManagerIp, ManagerNode, ManagerPort, Row,
        };

        platform::Entity::update_many()
            .col_expr(Generation, Expr::value(None::<i64>))
            .col_expr(FirstRoundDone, Expr::value(false))
            .col_expr(ManagerNode, Expr::value(None::<String>))
            .col_expr(ManagerIp, Expr::value(None::<String>))
            .col_expr(ManagerPort, Expr::value(None::<i32>))
            .col_expr(Follows, Expr::value(None::<String>))
            .filter(Row.eq(SINGLE))
            .exec(session)
            .await
            .map_err(self.failed())?;
        Ok(())
    }
}
