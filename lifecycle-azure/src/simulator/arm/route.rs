//! Which path is which resource's. Azure takes paths in any capitals, so this is done by hand.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::address::PublicAddress;
use super::answer::Answer;
use super::call::Call;
use super::disk::Disk;
use super::id::{ResourceId, group_key, key_of};
use super::interface::Interface;
use super::machine::{self, Machine};
use super::network::{self, Network};
use super::operation::{OperationId, Outcome};
use super::problem::{Problem, Refusal};
use super::resource::{self, Declared, Resource};
use super::security_group::SecurityGroup;
use super::sku::{self, known_location, location_name};
use super::world::World;
use super::{group, image, subscription, usage};

type Answered = Result<Answer, Refusal>;

/// The parts of a path.
pub(crate) fn segments(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty()).collect()
}

/// Answers a request.
pub(crate) fn dispatch(call: &Call<'_>, world: &mut World) -> Answered {
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
            in_subscription(call, world, id, &original[2..], &lower[2..])
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
    let message = format!("The simulator has nothing at '{}'.", call.path);
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
    world: &mut World,
    id: &str,
    original: &[&str],
    lower: &[&str],
) -> Answered {
    let prefix = format!("/subscriptions/{}", id.to_lowercase());
    match lower {
        [] => read_only(call, || Ok(Answer::ok(subscription::show(call, id)))),
        ["locations"] => read_only(call, || Ok(subscription::locations(id))),
        ["resources"] => read_only(call, || subscription::resources(call, world, &prefix)),
        ["providers"] => read_only(call, || Ok(subscription::providers(id))),
        ["operationresults", operation] => {
            read_only(call, || group_operation(call, world, operation))
        }
        ["resourcegroups"] => read_only(call, || group::list(call, world, id)),
        ["resourcegroups", _] => of_group(call, world, id, original[1]),
        ["resourcegroups", name, "resources"] => read_only(call, || {
            world.group(id, name)?;
            subscription::resources(call, world, &group_key(id, name))
        }),
        ["resourcegroups", _, "providers", rest @ ..] => {
            let names = &original[3..];
            in_group(call, world, (id, original[1]), names, rest)
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
                in_location(call, world, (id, namespace, &location), rest)
            })
        }
        ["providers", namespace, kind] => {
            let kind = format!("{namespace}/{kind}");
            read_only(call, || list(call, world, &kind, &prefix))
        }
        _ => Err(unknown(call)),
    }
}

fn of_group(call: &Call<'_>, world: &mut World, id: &str, name: &str) -> Answered {
    match *call.method {
        Method::GET => group::get(world, id, name),
        Method::HEAD => Ok(group::exists(world, id, name)),
        Method::PUT => group::put(call, world, id, name),
        Method::PATCH => group::patch(call, world, id, name),
        Method::DELETE => group::delete(call, world, id, name),
        _ => Err(wrong_method(call)),
    }
}

fn list(call: &Call<'_>, world: &World, kind: &str, prefix: &String) -> Answered {
    match kind {
        "microsoft.compute/virtualmachines" => machine::list(call, world, prefix),
        "microsoft.compute/disks" => resource::list::<Disk>(call, world, prefix),
        "microsoft.network/virtualnetworks" => resource::list::<Network>(call, world, prefix),
        "microsoft.network/networksecuritygroups" => {
            resource::list::<SecurityGroup>(call, world, prefix)
        }
        "microsoft.network/publicipaddresses" => {
            resource::list::<PublicAddress>(call, world, prefix)
        }
        "microsoft.network/networkinterfaces" => resource::list::<Interface>(call, world, prefix),
        _ => Err(unknown(call)),
    }
}

fn in_group(
    call: &Call<'_>,
    world: &mut World,
    (subscription, group): (&str, &str),
    original: &[&str],
    lower: &[&str],
) -> Answered {
    let named = |kind| ResourceId::new(subscription, group, kind, original[2]);
    match lower {
        [namespace, kind] => {
            let kind = format!("{namespace}/{kind}");
            read_only(call, || {
                world.group(subscription, group)?;
                list(call, world, &kind, &group_key(subscription, group))
            })
        }
        ["microsoft.compute", "virtualmachines", _, rest @ ..] => {
            of_machine(call, world, &named(Machine::KIND), rest)
        }
        ["microsoft.compute", "disks", _] => {
            let id = named(Disk::KIND);
            match *call.method {
                Method::GET => resource::get::<Disk>(world, &id),
                Method::PATCH => resource::patch_tags::<Disk>(call, world, &id),
                Method::DELETE => resource::delete::<Disk>(call, world, &id),
                _ => Err(wrong_method(call)),
            }
        }
        ["microsoft.network", "virtualnetworks", _] => {
            declared::<Network>(call, world, &named(Network::KIND))
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
                world,
                &named(Network::KIND),
                name.filter(|_| rest.len() == 1),
            )
        }
        ["microsoft.network", "networksecuritygroups", _] => {
            declared::<SecurityGroup>(call, world, &named(SecurityGroup::KIND))
        }
        ["microsoft.network", "publicipaddresses", _] => {
            declared::<PublicAddress>(call, world, &named(PublicAddress::KIND))
        }
        ["microsoft.network", "networkinterfaces", _] => {
            declared::<Interface>(call, world, &named(Interface::KIND))
        }
        _ => Err(unknown(call)),
    }
}

fn declared<R: Declared>(call: &Call<'_>, world: &mut World, id: &ResourceId) -> Answered {
    match *call.method {
        Method::GET => resource::get::<R>(world, id),
        Method::PUT => resource::put::<R>(call, world, id),
        Method::PATCH => resource::patch_tags::<R>(call, world, id),
        Method::DELETE => resource::delete::<R>(call, world, id),
        _ => Err(wrong_method(call)),
    }
}

fn of_subnets(
    call: &Call<'_>,
    world: &mut World,
    network: &ResourceId,
    name: Option<&str>,
) -> Answered {
    match (call.method.clone(), name) {
        (Method::GET, None) => network::list_subnets(call, world, network),
        (Method::GET, Some(name)) => network::get_subnet(world, network, name),
        (Method::PUT, Some(name)) => network::put_subnet(call, world, network, name),
        (Method::DELETE, Some(name)) => network::delete_subnet(call, world, network, name),
        _ => Err(wrong_method(call)),
    }
}

fn of_machine(call: &Call<'_>, world: &mut World, id: &ResourceId, rest: &[&str]) -> Answered {
    match (call.method.clone(), rest) {
        (Method::GET, []) => machine::get(call, world, id),
        (Method::PUT, []) => machine::put(call, world, id),
        (Method::PATCH, []) => machine::patch(call, world, id),
        (Method::DELETE, []) => Ok(machine::delete(call, world, id)),
        (Method::GET, ["instanceview"]) => machine::instance_view(world, id),
        (Method::POST, [action]) => {
            machine::act(call, world, id, action).unwrap_or_else(|| Err(unknown(call)))
        }
        (_, []) => Err(wrong_method(call)),
        _ => Err(unknown(call)),
    }
}

fn in_location(
    call: &Call<'_>,
    world: &World,
    (subscription, namespace, location): (&str, &str, &str),
    rest: &[&str],
) -> Answered {
    let lower: Vec<String> = rest.iter().map(|part| part.to_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    let options = &call.cloud.options;
    match (namespace, &lower[..]) {
        (_, ["operations" | "operationresults", id]) => operation(call, world, id),
        ("microsoft.compute", ["vmsizes"]) => Ok(sku::sizes()),
        ("microsoft.compute", ["usages"]) => {
            Ok(usage::compute(world, options, subscription, location))
        }
        ("microsoft.network", ["usages"]) => Ok(usage::network(world, subscription, location)),
        ("microsoft.compute", ["publishers", ..]) => {
            image::browse(subscription, location, &rest[1..]).ok_or_else(|| {
                let message = "The image, or a part of its name, was not found.";
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

/// An operation's status; with `monitor=true` what it has led to.
fn operation(call: &Call<'_>, world: &World, id: &str) -> Answered {
    let id = operation_id(id)?;
    let found = world
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
                let made = found.result.as_ref().and_then(|path| at(world, path));
                Ok(made.map_or_else(|| Answer::new(StatusCode::OK), Answer::ok))
            }
        },
    }
}

/// The resource with this id.
fn at(world: &World, id: &str) -> Option<Value> {
    fn on<R: Resource>(world: &World, key: &str) -> Option<Value> {
        R::shelf(world).get(key).map(|found| found.show(world))
    }
    let key = key_of(id);
    on::<Machine>(world, &key)
        .or_else(|| on::<Network>(world, &key))
        .or_else(|| on::<Interface>(world, &key))
        .or_else(|| on::<PublicAddress>(world, &key))
        .or_else(|| on::<SecurityGroup>(world, &key))
        .or_else(|| network::show_subnet_at(world, id))
}

/// How far the deletion of a resource group is: there is no status, 202 is all.
fn group_operation(call: &Call<'_>, world: &World, id: &str) -> Answered {
    let id = operation_id(id)?;
    let found = world
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
