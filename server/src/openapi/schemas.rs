//! Generates the schemas of requests and responses, and simplifies them for clients.

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// Generates schemas. A request may omit members that a response always contains, so there is a
/// generator for each.
#[derive(Debug)]
pub(super) struct Schemas {
    requests: SchemaGenerator,
    responses: SchemaGenerator,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.meta_schema = None;
            })
        };
        Self {
            requests: settings().for_deserialize().into_generator(),
            responses: settings().for_serialize().into_generator(),
        }
    }

    /// Returns the schema of a type in requests.
    pub(super) fn request<T: JsonSchema>(&mut self) -> Schema {
        self.requests.subschema_for::<T>()
    }

    /// Returns the schema of a type in requests, and not only a reference to it.
    pub(super) fn request_in_place<T: JsonSchema>(&mut self) -> Schema {
        T::json_schema(&mut self.requests)
    }

    /// Returns the schema of a type in responses.
    pub(super) fn response<T: JsonSchema>(&mut self) -> Schema {
        self.responses.subschema_for::<T>()
    }

    /// Returns the schemas that others refer to. No type in both requests and responses has members
    /// that only requests may omit, so both of its schemas are equal.
    pub(super) fn take(&mut self) -> Map<String, Value> {
        let mut all = self.requests.take_definitions(true);
        all.extend(self.responses.take_definitions(true));
        for schema in all.values_mut() {
            simplify(schema);
        }
        all
    }
}

/// Simplifies all schemas in a part of the document.
pub(super) fn simplify_below(part: &mut Value) {
    match part {
        Value::Object(members) => {
            for (key, value) in members {
                if key == "schema" {
                    simplify(value);
                } else {
                    simplify_below(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(simplify_below),
        _ => {}
    }
}

/// Removes `null` from the types of a schema: a parameter is absent, but never null.
pub(super) fn without_null(schema: &mut Value) {
    let Some(kinds) = schema.get_mut("type").and_then(Value::as_array_mut) else {
        return;
    };
    kinds.retain(|kind| kind != "null");
    if let [kind] = kinds.as_slice() {
        schema["type"] = kind.clone();
    }
}

fn simplify(schema: &mut Value) {
    if let Ok(schema) = <&mut Schema>::try_from(schema) {
        Simple.transform(schema);
    }
}

/// Replaces a constant with an enumeration of one value.
fn enumerate(schema: &mut Value) {
    let members = schema.as_object_mut();
    if let Some(members) = members
        && let Some(value) = members.remove("const")
    {
        members.insert("enum".into(), json!([value]));
    }
}

/// Joins the lines of paragraphs, and removes links to other comments of the code.
fn flowing(text: &str) -> String {
    let mut joined = String::new();
    for line in text.lines() {
        let begins = line.is_empty() || line.starts_with("- ") || joined.ends_with('\n');
        if !joined.is_empty() {
            joined.push(if begins { '\n' } else { ' ' });
        }
        joined.push_str(line);
    }
    joined.replace("[`", "`").replace("`]", "`")
}

/// Removes formats that JSON Schema does not define, and replaces alternatives of constants with
/// enumerations, which generators of clients support better.
struct Simple;

impl Transform for Simple {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        if let Some(Value::String(text)) = schema.get_mut("description") {
            *text = flowing(text);
        }
        let is_known = |format: &Value| {
            let known = ["date-time", "uuid", "password", "ipv4", "ipv6", "binary"];
            known.iter().any(|known| format == known)
        };
        if schema.get("format").is_some_and(|format| !is_known(format)) {
            schema.remove("format");
        }
        if let Some(Value::Array(alternatives)) = schema.get_mut("oneOf") {
            alternatives.iter_mut().for_each(enumerate);
        }
        let Some(alternatives) = schema.get("oneOf").and_then(Value::as_array) else {
            return;
        };
        let mut values = Vec::new();
        let mut lines = Vec::new();
        for alternative in alternatives {
            let text = alternative.get("description").and_then(Value::as_str);
            let Some(Value::Array(own)) = alternative.get("enum") else {
                return;
            };
            if let (Some(text), [Value::String(name)]) = (text, own.as_slice()) {
                lines.push(format!("- `{name}`: {text}"));
            }
            values.extend(own.iter().cloned());
        }
        schema.remove("oneOf");
        schema.insert("type".into(), "string".into());
        schema.insert("enum".into(), json!(values));
        let first = schema.get("description").and_then(Value::as_str);
        let description = match first {
            Some(first) => format!("{first}\n\n{}", lines.join("\n")),
            None => lines.join("\n"),
        };
        schema.insert("description".into(), description.into());
    }
}
