//! The chunks of mounted files.

use std::collections::BTreeSet;

use axum::Json;
use axum::http::StatusCode;
use lifecycle_core::Error;
use lifecycle_core::model::{Chunk, ChunkDigest};

use super::Api;
use super::request::{self, Segment, Whole};
use crate::auth::{Admin, Unlimited};
use crate::problem::Problem;

/// `POST /v1/chunks/missing`: returns which of the chunks are not stored. Requires an admin token,
/// because a digest that is stored confirms a guess of the contents.
pub(super) async fn missing(
    _: Unlimited<Admin>,
    api: Api,
    Whole(body): Whole<{ Chunk::SIZE }>,
) -> Result<Json<BTreeSet<ChunkDigest>>, Problem> {
    let digests = serde_json::from_slice(&body).map_err(|error| {
        request::unreadable_body(&error, "send an array of SHA-256 digests (docs/api.md)")
    })?;
    Ok(Json(api.manager.missing_chunks(&digests).await?))
}

/// `PUT /v1/chunks/{digest}`: stores a chunk. A repeated request changes nothing.
pub(super) async fn put(
    _: Unlimited<Admin>,
    api: Api,
    Segment(digest): Segment,
    Whole(body): Whole<{ Chunk::SIZE }>,
) -> Result<StatusCode, Problem> {
    let digest: ChunkDigest = digest.parse().map_err(Error::from)?;
    let chunk = Chunk::new(body)?;
    if chunk.digest() != digest {
        return Err(Problem::from(Error::invalid(
            "the chunk",
            "the digest in the path is not the SHA-256 of the body",
            "send the chunk again",
        )));
    }
    api.manager.put_chunk(&chunk).await?;
    Ok(StatusCode::NO_CONTENT)
}
