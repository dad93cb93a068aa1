//! Lists, adds, adopts, prepares, cordons, drains, stops, starts, restarts and removes the nodes of the platform.

use axum::Json;
use axum::http::StatusCode;
use lifecycle_core::api::wire::{
    AdoptedV1, AppliedV1, NewMachineV1, NewNodeV1, NodeV1, OperationV1, RestartNodeV1,
};
use lifecycle_core::model::NodeRequest;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Api;
use super::request::{Parameters, Segment, Whole, optional, unreadable_body};
use crate::auth::{Admin, Operator, Unlimited, Viewer};
use crate::problem::Problem;

/// The largest body of a request for a new node, in bytes.
const LARGEST: usize = 4 << 10;

/// The largest body of a request that adopts a machine, in bytes. It may contain a key.
const LARGEST_MACHINE: usize = 64 << 10;

/// `GET /v1/nodes`.
pub(super) async fn list(_: Unlimited<Viewer>, api: Api) -> Result<Json<Vec<NodeV1>>, Problem> {
    Ok(Json(api.manager.nodes().await?))
}

/// `GET /v1/nodes/{name}`.
pub(super) async fn show(
    _: Unlimited<Viewer>,
    api: Api,
    Segment(name): Segment,
) -> Result<Json<NodeV1>, Problem> {
    Ok(Json(api.manager.node(&name).await?))
}

/// `POST /v1/nodes`: adds a node, which is then created and prepared.
pub(super) async fn add(
    _: Unlimited<Operator>,
    api: Api,
    Whole(body): Whole<LARGEST>,
) -> Result<(StatusCode, Json<AppliedV1>), Problem> {
    let node: NewNodeV1 = serde_json::from_slice(&body).map_err(|error| {
        let hint = "send `{\"name\": \"worker-3\", \"like\": \"worker-2\"}`; `like` may be omitted";
        unreadable_body(&error, hint)
    })?;
    let applied = api.manager.add_node(&node).await?;
    Ok((StatusCode::ACCEPTED, Json(applied)))
}

/// `POST /v1/machines`: takes over a machine that exists already, and declares it as a node.
pub(super) async fn adopt(
    _: Unlimited<Admin>,
    api: Api,
    Whole(body): Whole<LARGEST_MACHINE>,
) -> Result<(StatusCode, Json<AdoptedV1>), Problem> {
    let machine: NewMachineV1 = serde_json::from_slice(&body).map_err(|error| {
        let hint =
            "send `{\"name\": …, \"address\": …, \"user\": …, \"password\": …}` (docs/api.md)";
        unreadable_body(&error, hint)
    })?;
    let adopted = api.manager.adopt_node(&machine).await?;
    Ok((StatusCode::ACCEPTED, Json(adopted)))
}

/// The query of `DELETE /v1/nodes/{name}`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Removal {
    /// Whether to delete the named volumes on the node.
    #[serde(default)]
    volumes: bool,
}

/// `DELETE /v1/nodes/{name}`: removes a node that was added at run time.
pub(super) async fn remove(
    _: Unlimited<Operator>,
    api: Api,
    Segment(name): Segment,
    Parameters(removal): Parameters<Removal>,
) -> Result<(StatusCode, Json<AppliedV1>), Problem> {
    let applied = api.manager.remove_node(&name, removal.volumes).await?;
    Ok((StatusCode::ACCEPTED, Json(applied)))
}

/// `POST /v1/nodes/{names}/cordon`, `drain`, `uncordon`, `stop` and `start`. The names are separated by
/// commas.
pub(super) async fn change(
    request: NodeRequest,
    _: Unlimited<Operator>,
    api: Api,
    Segment(names): Segment,
) -> Result<(StatusCode, Json<AppliedV1>), Problem> {
    let names: Vec<String> = names.split(',').map(str::to_owned).collect();
    let applied = api.manager.change_nodes(&names, request).await?;
    Ok((StatusCode::ACCEPTED, Json(applied)))
}

/// `POST /v1/nodes/{name}/restart`: begins to restart a node.
pub(super) async fn restart(
    _: Unlimited<Operator>,
    api: Api,
    Segment(name): Segment,
    Whole(body): Whole,
) -> Result<(StatusCode, Json<OperationV1>), Problem> {
    let request: Option<RestartNodeV1> = optional(&body, "send `{\"boot_id\": …}`, or nothing")?;
    let operation = api
        .manager
        .restart_node(&name, &request.unwrap_or_default())
        .await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}

/// `POST /v1/nodes/{name}/prepare`: begins to prepare a node for Docker again.
pub(super) async fn prepare(
    _: Unlimited<Operator>,
    api: Api,
    Segment(name): Segment,
) -> Result<(StatusCode, Json<OperationV1>), Problem> {
    let operation = api.manager.prepare_node(&name).await?;
    Ok((StatusCode::ACCEPTED, Json(operation)))
}
