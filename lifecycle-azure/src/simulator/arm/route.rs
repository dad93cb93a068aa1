//! Routes requests to resources by their paths. Does not use axum's router: that router is
//! case-sensitive, but Azure's paths are case-insensitive.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::address::PublicAddress;
use super::answer::Answer;
use super::call::Call;
use super::disk::Disk;
use super::id::{ResourceId, group_key, key_of};
use super::interface::Interface;
use super::network::{self, Network};
use super::operation::{OperationId, Outcome};
use super::problem::{Problem, Refusal};
use super::resource::{self, Declared, Resource};
use super::security_group::{self, SecurityGroup};
use super::sku::{self, known_location, location_name};
use super::state::ArmState;
use super::vm::{self, VmResource};
use super::{group, image, subscription, usage};

type Answered = Result<Answer, Refusal>;

pub(crate) fn segments(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty()).collect()
}

/// Handles a request.
pub(crate) fn dispatch(call: &Call<'_>, arm: &mut ArmState) -> Answered {
    let original = segments(call.path);
    let lower: Vec<String> = original.iter().map(|part| part.to_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    let [first, rest @ ..] = &lower[..] else {
        return Err(unknown(call));
    };
    match (*first, rest) {
        ("subscriptions", []) => read_only(call, || Ok(subscription::list(call))),
        ("subscriptions", [id, ..]) => {
            let id = subscription::find(call, id)?;
            in_subscription(call, arm, id, &original[2..], &lower[2..])
        }
        ("tenants", []) => {
            let tenant = &call.cloud.options.tenant;
            let shown = json!({"id": format!("/tenants/{tenant}"), "tenantId": tenant});
            read_only(call, || Ok(Answer::ok(json!({ "value": [shown] }))))
        }
        _ => Err(unknown(call)),
    }
}

fn unknown(call: &Call<'_>) -> Refusal {
    let message = format!("The simulator does not support the path '{}'.", call.path);
    Problem::new("InvalidResourceType", message).not_found()
}

fn wrong_method(call: &Call<'_>) -> Refusal {
    let message = format!(
        "The requested resource does not support http method '{}'.",
        call.method
    );
    Problem::new("UnsupportedHttpMethod", message).with(StatusCode::METHOD_NOT_ALLOWED)
}

fn read_only(call: &Call<'_>, answer: impl FnOnce() -> Answered) -> Answered {
    if *call.method == Method::GET {
        answer()
    } else {
        Err(wrong_method(call))
    }
}

fn in_subscription(
    call: &Call<'_>,
    arm: &mut ArmState,
    id: &str,
    original: &[&str],
    lower: &[&str],
) -> Answered {
    let prefix = format!("/subscriptions/{}", id.to_lowercase());
    match lower {
        [] => read_only(call, || Ok(Answer::ok(subscription::show(call, id)))),
        ["locations"] => read_only(call, || Ok(subscription::locations(id))),
        ["resources"] => read_only(call, || subscription::resources(call, arm, &prefix)),
        ["providers"] => read_only(call, || Ok(subscription::providers(id))),
        ["operationresults", operation] => {
            read_only(call, || group_operation(call, arm, operation))
        }
        ["resourcegroups"] => read_only(call, || group::list(call, arm, id)),
        ["resourcegroups", _] => of_group(call, arm, id, original[1]),
        ["resourcegroups", name, "resources"] => read_only(call, || {
            arm.group(id, name)?;
            subscription::resources(call, arm, &group_key(id, name))
        }),
        ["resourcegroups", _, "providers", rest @ ..] => {
            let names = &original[3..];
            in_group(call, arm, (id, original[1]), names, rest)
        }
        ["providers", namespace] => read_only(call, || subscription::provider(id, namespace)),
        ["providers", namespace, "register"] if *call.method == Method::POST => {
            subscription::provider(id, namespace)
        }
        ["providers", "microsoft.compute", "skus"] => read_only(call, || sku::list(call)),
        ["providers", namespace, "locations", _, rest @ ..] => {
            let location = location_name(original[3]);
            if !known_location(&location) {
                let message =
                    format!("No registered resource provider found for location '{location}'.");
                let problem = Problem::new("NoRegisteredProviderFound", message);
                return Err(problem.bad_request());
            }
            let rest = &original[4..4 + rest.len()];
            read_only(call, || {
                in_location(call, arm, (id, namespace, &location), rest)
            })
        }
        ["providers", namespace, kind] => {
            let kind = format!("{namespace}/{kind}");
            read_only(call, || list(call, arm, &kind, &prefix))
        }
        _ => Err(unknown(call)),
    }
}

fn of_group(call: &Call<'_>, arm: &mut ArmState, id: &str, name: &str) -> Answered {
    match *call.method {
        Method::GET => group::get(arm, id, name),
        Method::HEAD => Ok(group::exists(arm, id, name)),
        Method::PUT => group::put(call, arm, id, name),
        Method::PATCH => group::patch(call, arm, id, name),
        Method::DELETE => group::delete(call, arm, id, name),
        _ => Err(wrong_method(call)),
    }
}

fn list(call: &Call<'_>, arm: &ArmState, kind: &str, prefix: &String) -> Answered {
    match kind {
        "microsoft.compute/virtualmachines" => vm::list(call, arm, prefix),
        "microsoft.compute/disks" => resource::list::<Disk>(call, arm, prefix),
        "microsoft.network/virtualnetworks" => resource::list::<Network>(call, arm, prefix),
        "microsoft.network/networksecuritygroups" => {
            resource::list::<SecurityGroup>(call, arm, prefix)
        }
        "microsoft.network/publicipaddresses" => resource::list::<PublicAddress>(call, arm, prefix),
        "microsoft.network/networkinterfaces" => resource::list::<Interface>(call, arm, prefix),
        _ => Err(unknown(call)),
    }
}

fn in_group(
    call: &Call<'_>,
    arm: &mut ArmState,
    (subscription, group): (&str, &str),
    original: &[&str],
    lower: &[&str],
) -> Answered {
    let named = |kind| ResourceId::new(subscription, group, kind, original[2]);
    match lower {
        [namespace, kind] => {
            let kind = format!("{namespace}/{kind}");
            read_only(call, || {
                arm.group(subscription, group)?;
                list(call, arm, &kind, &group_key(subscription, group))
            })
        }
        ["microsoft.compute", "virtualmachines", _, rest @ ..] => {
            for_vm(call, arm, &named(VmResource::KIND), rest)
        }
        ["microsoft.compute", "disks", _] => {
            let id = named(Disk::KIND);
            match *call.method {
                Method::GET => resource::get::<Disk>(arm, &id),
                Method::PATCH => resource::patch_tags::<Disk>(call, arm, &id),
                Method::DELETE => resource::delete::<Disk>(call, arm, &id),
                _ => Err(wrong_method(call)),
            }
        }
        ["microsoft.network", "virtualnetworks", _] => {
            declared::<Network>(call, arm, &named(Network::KIND))
        }
        [
            "microsoft.network",
            "virtualnetworks",
            _,
            "subnets",
            rest @ ..,
        ] => {
            let name = original[4..].first().copied();
            of_subnets(
                call,
                arm,
                &named(Network::KIND),
                name.filter(|_| rest.len() == 1),
            )
        }
        [
            "microsoft.network",
            "networksecuritygroups",
            _,
            "securityrules",
            rest @ ..,
        ] => {
            let name = original[4..].first().copied();
            let group = named(SecurityGroup::KIND);
            of_rules(call, arm, &group, name.filter(|_| rest.len() == 1))
        }
        ["microsoft.network", "networksecuritygroups", _] => {
            declared::<SecurityGroup>(call, arm, &named(SecurityGroup::KIND))
        }
        ["microsoft.network", "publicipaddresses", _] => {
            declared::<PublicAddress>(call, arm, &named(PublicAddress::KIND))
        }
        ["microsoft.network", "networkinterfaces", _] => {
            declared::<Interface>(call, arm, &named(Interface::KIND))
        }
        _ => Err(unknown(call)),
    }
}

fn declared<R: Declared>(call: &Call<'_>, arm: &mut ArmState, id: &ResourceId) -> Answered {
    match *call.method {
        Method::GET => resource::get::<R>(arm, id),
        Method::PUT => resource::put::<R>(call, arm, id),
        Method::PATCH => resource::patch_tags::<R>(call, arm, id),
        Method::DELETE => resource::delete::<R>(call, arm, id),
        _ => Err(wrong_method(call)),
    }
}

fn of_subnets(
    call: &Call<'_>,
    arm: &mut ArmState,
    network: &ResourceId,
    name: Option<&str>,
) -> Answered {
    match (call.method.clone(), name) {
        (Method::GET, None) => network::list_subnets(call, arm, network),
        (Method::GET, Some(name)) => network::get_subnet(arm, network, name),
        (Method::PUT, Some(name)) => network::put_subnet(call, arm, network, name),
        (Method::DELETE, Some(name)) => network::delete_subnet(call, arm, network, name),
        _ => Err(wrong_method(call)),
    }
}

fn of_rules(
    call: &Call<'_>,
    arm: &mut ArmState,
    group: &ResourceId,
    name: Option<&str>,
) -> Answered {
    match (call.method.clone(), name) {
        (Method::GET, None) => security_group::list_rules(call, arm, group),
        (Method::GET, Some(name)) => security_group::get_rule(arm, group, name),
        (Method::PUT, Some(name)) => security_group::put_rule(call, arm, group, name),
        (Method::DELETE, Some(name)) => security_group::delete_rule(call, arm, group, name),
        _ => Err(wrong_method(call)),
    }
}

fn for_vm(call: &Call<'_>, arm: &mut ArmState, id: &ResourceId, rest: &[&str]) -> Answered {
    match (call.method.clone(), rest) {
        (Method::GET, []) => vm::get(call, arm, id),
        (Method::PUT, []) => vm::put(call, arm, id),
        (Method::PATCH, []) => vm::patch(call, arm, id),
        (Method::DELETE, []) => Ok(vm::delete(call, arm, id)),
        (Method::GET, ["instanceview"]) => vm::instance_view(arm, id),
        (Method::POST, [action]) => {
            vm::act(call, arm, id, action).unwrap_or_else(|| Err(unknown(call)))
        }
        (_, []) => Err(wrong_method(call)),
        _ => Err(unknown(call)),
    }
}

fn in_location(
    call: &Call<'_>,
    arm: &ArmState,
    (subscription, namespace, location): (&str, &str, &str),
    rest: &[&str],
) -> Answered {
    let lower: Vec<String> = rest.iter().map(|part| part.to_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    let options = &call.cloud.options;
    match (namespace, &lower[..]) {
        (_, ["operations" | "operationresults", id]) => operation(call, arm, id),
        ("microsoft.compute", ["vmsizes"]) => Ok(sku::sizes()),
        ("microsoft.compute", ["usages"]) => {
            Ok(usage::compute(arm, options, subscription, location))
        }
        ("microsoft.network", ["usages"]) => Ok(usage::network(arm, subscription, location)),
        ("microsoft.compute", ["publishers", ..]) => {
            image::browse(subscription, location, &rest[1..]).ok_or_else(|| {
                let message = "The publisher, offer, SKU, or version was not found.";
                Problem::new("ArtifactNotFound", message).not_found()
            })
        }
        _ => Err(unknown(call)),
    }
}

fn operation_id(id: &str) -> Result<OperationId, Refusal> {
    Uuid::parse_str(id).map_err(|_| no_operation(id))
}

fn no_operation(id: &str) -> Refusal {
    let message = format!("The entity was not found: operation '{id}'.");
    Problem::new("NotFound", message).not_found()
}

/// Returns an operation's status or, if the request has a `monitor` parameter, the operation's
/// result.
fn operation(call: &Call<'_>, arm: &ArmState, id: &str) -> Answered {
    let id = operation_id(id)?;
    let found = arm
        .operations
        .get(id)
        .ok_or_else(|| no_operation(&id.to_string()))?;
    if call.parameter("monitor").is_none() {
        let answer = Answer::ok(found.status(id));
        return Ok(if found.end.is_none() {
            answer.waiting()
        } else {
            answer
        });
    }
    match &found.end {
        None => Ok(Answer::new(StatusCode::ACCEPTED).following(id)),
        Some(end) => match &end.outcome {
            Outcome::Failed(problem) | Outcome::Canceled(problem) => {
                Err(problem.clone().conflict())
            }
            Outcome::Succeeded => {
                let created = found.result.as_ref().and_then(|path| at(arm, path));
                Ok(created.map_or_else(|| Answer::new(StatusCode::OK), Answer::ok))
            }
        },
    }
}

/// Returns the resource with this id as JSON.
fn at(arm: &ArmState, id: &str) -> Option<Value> {
    fn on<R: Resource>(arm: &ArmState, key: &str) -> Option<Value> {
        R::table(arm).get(key).map(|found| found.show(arm))
    }
    let key = key_of(id);
    on::<VmResource>(arm, &key)
        .or_else(|| on::<Network>(arm, &key))
        .or_else(|| on::<Interface>(arm, &key))
        .or_else(|| on::<PublicAddress>(arm, &key))
        .or_else(|| on::<SecurityGroup>(arm, &key))
        .or_else(|| network::show_subnet_at(arm, id))
}

/// Responds to a poll of a resource group's deletion. A deletion has no status document: the
/// response is 202 until the group is deleted.
fn group_operation(call: &Call<'_>, arm: &ArmState, id: &str) -> Answered {
    let id = operation_id(id)?;
    let found = arm
        .operations
        .get(id)
        .ok_or_else(|| no_operation(&id.to_string()))?;
    match &found.end {
        None => Ok(Answer::new(StatusCode::ACCEPTED).again_at(call.path.to_owned())),
        Some(end) => match &end.outcome {
            Outcome::Succeeded => Ok(Answer::new(StatusCode::OK)),
            Outcome::Failed(problem) | Outcome::Canceled(problem) => {
                Err(problem.clone().conflict())
            }
        },
    }
}
