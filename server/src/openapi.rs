//! Describes operations of the API as an `OpenAPI` 3.1 document. Parameters, roles and most responses
//! are derived from the types of the handlers, and schemas from the serialized types.

mod handler;
mod page;
mod schemas;

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use lifecycle_core::api::problem::ProblemV1;
use lifecycle_core::model::TokenRole;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

pub(crate) use handler::{Handler, Input};
pub(crate) use page::page;

use self::schemas::Schemas;

/// The name of the security scheme.
const TOKEN: &str = "token";

const JSON: &str = "application/json";

/// A document, while operations are added to it.
#[derive(Debug)]
pub(crate) struct Document {
    paths: BTreeMap<String, BTreeMap<String, Value>>,
    schemas: Schemas,
}

/// An operation, while it is described.
#[derive(Debug)]
pub(crate) struct Operation<'a> {
    path: &'a str,
    content: Map<String, Value>,
    parameters: Vec<Value>,
    responses: BTreeMap<u16, Value>,
    schemas: &'a mut Schemas,
}

impl Document {
    /// Creates a document without operations.
    pub(crate) fn new() -> Self {
        Self {
            paths: BTreeMap::new(),
            schemas: Schemas::new(),
        }
    }

    /// Adds an operation. Its parameters, its role and, if the type shows it, its response are those of
    /// `handler`; `describe` adds the rest.
    pub(crate) fn add<I, H: Handler<I>>(
        &mut self,
        method: &str,
        path: &str,
        _handler: &H,
        describe: impl FnOnce(Operation<'_>) -> Operation<'_>,
    ) {
        let mut operation = Operation {
            path,
            content: Map::new(),
            parameters: Vec::new(),
            responses: BTreeMap::new(),
            schemas: &mut self.schemas,
        };
        H::describe(&mut operation);
        let content = describe(operation).finish();
        let operations = self.paths.entry(path.to_owned()).or_default();
        operations.insert(method.to_ascii_lowercase(), content);
    }

    /// Returns the document with this general information.
    pub(crate) fn finish(mut self, info: &Value) -> Value {
        let problem = self.schemas.response::<ProblemV1>();
        let statuses: BTreeSet<u16> = self
            .paths
            .values()
            .flat_map(BTreeMap::values)
            .filter_map(|operation| operation["responses"].as_object())
            .flat_map(Map::keys)
            .filter_map(|status| status.parse().ok())
            .filter(|status| *status >= 400)
            .collect();
        let problems: BTreeMap<String, Value> = statuses
            .into_iter()
            .map(|status| (problem_name(status), problem_response(status, &problem)))
            .collect();
        let tags: BTreeSet<&str> = self.paths.keys().map(|path| tag(path)).collect();
        let tags: Vec<Value> = tags.iter().map(|name| json!({"name": name})).collect();
        let mut paths = json!(self.paths);
        schemas::simplify_below(&mut paths);
        json!({
            "openapi": "3.1.0",
            "info": info,
            "servers": [{"url": "/", "description": "The manager"}],
            "tags": tags,
            "paths": paths,
            "components": {
                "securitySchemes": {
                    TOKEN: {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "A token of the API. An operation lists the role that its token \
                                        needs; each role includes the previous ones: viewer, operator, \
                                        admin.",
                    },
                },
                "responses": problems,
                "schemas": self.schemas.take(),
            },
        })
    }
}

impl Operation<'_> {
    /// Sets the operation's id and its description in a sentence.
    pub(crate) fn named(mut self, id: &str, summary: &str) -> Self {
        self.set("operationId", id);
        self.set("summary", summary);
        self
    }

    /// Sets the details.
    pub(crate) fn details(mut self, text: &str) -> Self {
        self.set("description", text);
        self
    }

    /// Describes a parameter of the path, with a value as an example.
    pub(crate) fn segment<T: JsonSchema>(
        mut self,
        name: &str,
        description: &str,
        example: &str,
    ) -> Self {
        let schema = self.schemas.request::<T>();
        for parameter in &mut self.parameters {
            if parameter["in"] == "path" && parameter["name"] == name {
                parameter["description"] = description.into();
                parameter["schema"] = json!(schema);
                parameter["example"] = example.into();
            }
        }
        self
    }

    /// Describes a parameter of the path that has one of these values.
    pub(crate) fn segment_in(mut self, name: &str, description: &str, values: &[String]) -> Self {
        for parameter in &mut self.parameters {
            if parameter["in"] == "path" && parameter["name"] == name {
                parameter["description"] = description.into();
                parameter["schema"] = json!({"type": "string", "enum": values});
            }
        }
        self
    }

    /// Adds an optional header of the request.
    pub(crate) fn header(mut self, name: &str, description: &str, schema: &Value) -> Self {
        self.parameters.push(json!({
            "in": "header", "name": name, "description": description, "schema": schema,
        }));
        self
    }

    /// Sets the request's body as JSON.
    pub(crate) fn body<T: JsonSchema>(self, required: bool, example: &Value) -> Self {
        self.body_in::<T>(JSON, required, example)
    }

    /// Adds a format of the request's body.
    pub(crate) fn body_in<T: JsonSchema>(
        mut self,
        media: &str,
        required: bool,
        example: &Value,
    ) -> Self {
        let schema = self.schemas.request::<T>();
        let body = self
            .content
            .entry("requestBody")
            .or_insert_with(|| json!({"required": required, "content": {}}));
        body["content"][media] = json!({"schema": schema, "example": example});
        self
    }

    /// Adds a response with a body in JSON.
    pub(crate) fn responds<T: JsonSchema>(mut self, status: u16, description: &str) -> Self {
        self.success::<T>(status);
        self.responses.entry(status).and_modify(|response| {
            response["description"] = description.into();
        });
        self
    }

    /// Adds a response with this status, or another format of it.
    pub(crate) fn responds_with(
        mut self,
        status: u16,
        description: &str,
        content: Option<(&str, Value)>,
    ) -> Self {
        let response = self.responses.entry(status).or_insert_with(|| json!({}));
        response["description"] = description.into();
        if let Some((media, schema)) = content {
            response["content"][media] = json!({"schema": schema});
        }
        self
    }

    /// Adds problems with these statuses.
    pub(crate) fn fails(mut self, statuses: &[u16]) -> Self {
        for status in statuses {
            self.problem(*status);
        }
        self
    }

    /// Adds a link from the response to another operation.
    pub(crate) fn link(mut self, status: u16, to: &str, parameter: &str, value: &str) -> Self {
        let response = self.responses.entry(status).or_insert_with(|| json!({}));
        response["links"][to] = json!({"operationId": to, "parameters": {parameter: value}});
        self
    }

    fn finish(mut self) -> Value {
        self.set("tags", json!([tag(self.path)]));
        if !self.parameters.is_empty() {
            let parameters = std::mem::take(&mut self.parameters);
            self.set("parameters", parameters);
        }
        let responses = std::mem::take(&mut self.responses);
        self.set("responses", json!(responses));
        Value::Object(self.content)
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.content.insert(key.to_owned(), value.into());
    }

    /// Sets the role that the operation requires.
    pub(crate) fn role(&mut self, role: TokenRole) {
        self.set("security", json!([{TOKEN: [role.to_string()]}]));
        for status in [401, 403, 429, 500, 503] {
            self.problem(status);
        }
    }

    /// Adds the variable segments of the path.
    pub(crate) fn segments(&mut self) {
        let names = self.path.split('/').filter_map(|segment| {
            let name = segment.strip_prefix('{')?;
            name.strip_suffix('}')
        });
        self.parameters.extend(names.map(|name| {
            json!({
                "in": "path", "name": name, "required": true,
                "schema": {"type": "string", "minLength": 1},
            })
        }));
        self.problem(400);
    }

    /// Adds the members of a type as parameters of the query.
    pub(crate) fn query<T: JsonSchema>(&mut self) {
        let schema = self.schemas.request_in_place::<T>();
        let members = schema.get("properties").and_then(Value::as_object);
        for (name, member) in members.into_iter().flatten() {
            let mut schema = member.clone();
            schemas::without_null(&mut schema);
            let mut parameter = json!({"in": "query", "name": name});
            if let Some(description) = schema.as_object_mut().and_then(|s| s.remove("description"))
            {
                parameter["description"] = description;
            }
            parameter["schema"] = schema;
            self.parameters.push(parameter);
        }
        self.problem(400);
    }

    /// Adds a successful response with a body in JSON.
    pub(crate) fn success<T: JsonSchema>(&mut self, status: u16) {
        let schema: Schema = self.schemas.response::<T>();
        self.responses.insert(
            status,
            json!({
                "description": reason(status),
                "content": {JSON: {"schema": schema}},
            }),
        );
    }

    /// Adds a successful response without a body.
    pub(crate) fn empty(&mut self, status: u16) {
        let description = reason(status);
        self.responses
            .insert(status, json!({"description": description}));
    }

    /// Adds a problem with this status.
    pub(crate) fn problem(&mut self, status: u16) {
        let reference = format!("#/components/responses/{}", problem_name(status));
        self.responses.insert(status, json!({"$ref": reference}));
    }
}

/// Returns the type of resource that a path belongs to.
fn tag(path: &str) -> &str {
    if let "/healthz" | "/readyz" = path {
        return "health";
    }
    let path = path.strip_prefix("/v1").unwrap_or(path);
    let first = path.trim_start_matches('/').split('/').next();
    first.unwrap_or_default()
}

fn reason(status: u16) -> &'static str {
    let status = StatusCode::from_u16(status).ok();
    status
        .and_then(|status| status.canonical_reason())
        .unwrap_or_default()
}

fn problem_name(status: u16) -> String {
    reason(status).replace(' ', "")
}

fn problem_response(status: u16, schema: &Schema) -> Value {
    let mut response = json!({
        "description": reason(status),
        "content": {"application/problem+json": {"schema": schema}},
    });
    let seconds = json!({"type": "integer", "minimum": 1});
    let headers = match status {
        401 => Some(json!({"WWW-Authenticate": {"required": true, "schema": {"const": "Bearer"}}})),
        429 => Some(json!({"Retry-After": {"schema": seconds}})),
        503 => Some(json!({"Retry-After": {"required": true, "schema": seconds}})),
        _ => None,
    };
    if let Some(headers) = headers {
        response["headers"] = headers;
    }
    response
}
