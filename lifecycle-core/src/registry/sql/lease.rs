//! Acquires, releases and locks the lease. The row of the lease contains the current epoch.
//!
//! In PostgreSQL, leases expire by the server's clock, which is the same for all managers. In
//! SQLite, leases expire by the clock of the only process that uses the file.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{CaseStatement, Expr, ExprTrait, Query, SimpleExpr};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QuerySelect,
};

use super::entity::lease::{Column, Entity, Model};
use super::session::Session;
use crate::model::Epoch;
use crate::registry::effect::{MAX_LEASE, lease_end};

/// The name of the only lease.
const MANAGER: &str = "manager";

/// Locks the row of the lease. Until the session ends, no other session can write.
pub(super) async fn lock(session: &Session) -> Result<Model, DbErr> {
    Entity::find_by_id(MANAGER)
        .lock_exclusive()
        .one(session)
        .await?
        .ok_or_else(missing)
}

/// Acquires or renews the lease, unless another holder has a lease that has not expired. Returns
/// the resulting row.
pub(super) async fn acquire(
    session: &Session,
    holder: &str,
    ttl: Duration,
    now: DateTime<Utc>,
) -> Result<Model, DbErr> {
    // Lock the row first, so that it does not change between the update and the read below.
    lock(session).await?;
    let (time, end): (SimpleExpr, SimpleExpr) = if session.is_postgres() {
        let seconds = ttl.min(MAX_LEASE).as_secs_f64();
        (
            Expr::cust("now()"),
            Expr::cust_with_values("now() + make_interval(secs => $1)", [seconds]),
        )
    } else {
        (Expr::value(now), Expr::value(lease_end(now, ttl)))
    };
    let epoch = CaseStatement::new()
        .case(Column::Holder.eq(holder), Column::Epoch.into_expr())
        .finally(Column::Epoch.into_expr().add(1));
    let take = Query::update()
        .table(Entity)
        .value(Column::Epoch, epoch)
        .value(Column::Holder, holder)
        .value(Column::Until, end)
        .and_where(Column::Name.eq(MANAGER))
        .cond_where(
            Condition::any()
                .add(Column::Holder.is_null())
                .add(Column::Holder.eq(holder))
                .add(Column::Until.into_expr().lte(time)),
        )
        .take();
    session.execute(&take).await?;
    lock(session).await
}

/// Releases the lease if `holder` holds it; with `None`, regardless of the holder.
pub(super) async fn release(session: &Session, holder: Option<&str>) -> Result<(), DbErr> {
    let mut release = Entity::update_many()
        .col_expr(Column::Holder, Expr::value(None::<String>))
        .col_expr(Column::Until, Expr::value(None::<DateTime<Utc>>))
        .filter(Column::Name.eq(MANAGER));
    if let Some(holder) = holder {
        release = release.filter(Column::Holder.eq(holder));
    }
    release.exec(session).await?;
    Ok(())
}

/// Sets the epoch in a per-kind database. The lease itself is in the central registry.
pub(super) async fn lead_by(session: &Session, epoch: Epoch) -> Result<(), DbErr> {
    Entity::update_many()
        .col_expr(Column::Epoch, Expr::value(number(epoch)?))
        .filter(Column::Name.eq(MANAGER))
        .exec(session)
        .await?;
    Ok(())
}

/// Raises the epoch above `above`, unless it is already later.
pub(super) async fn raise_epoch(session: &Session, above: Epoch) -> Result<(), DbErr> {
    let next = number(above.next())?;
    Entity::update_many()
        .col_expr(Column::Epoch, Expr::value(next))
        .filter(Column::Name.eq(MANAGER))
        .filter(Column::Epoch.lt(next))
        .exec(session)
        .await?;
    Ok(())
}

fn number(epoch: Epoch) -> Result<i64, DbErr> {
    i64::try_from(epoch.0).map_err(|error| DbErr::Type(error.to_string()))
}

fn missing() -> DbErr {
    DbErr::Type("the row of the lease is missing".into())
}
