//! Converts an `OpenAPI` document to a page for people, in Markdown.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// The width of the page's paragraphs.
const WIDTH: usize = 120;

/// The members of a path that are operations, in the order of the page.
const METHODS: [&str; 4] = ["get", "put", "post", "delete"];

/// Returns the page about an API.
pub(crate) fn page(document: &Value) -> String {
    let mut page = Page {
        text: String::new(),
    };
    page.line("# API reference\n");
    page.paragraph(
        "`lifecycle-manager openapi --page` prints this page, which contains the same as the document \
         [openapi.json](openapi.json). [api.md](api.md) explains the API.",
    );
    page.paragraph(text(&document["info"], "description"));
    for tag in list(&document["tags"]) {
        let tag = text(tag, "name");
        page.line(&format!("## {tag}\n"));
        for (path, operations) in members(&document["paths"]) {
            for method in METHODS {
                let operation = &operations[method];
                if list(&operation["tags"]).iter().any(|own| own == tag) {
                    page.operation(method, path, operation);
                }
            }
        }
    }
    page.line("## Schemas\n");
    for (name, schema) in members(&document["components"]["schemas"]) {
        page.line(&format!("### {name}\n"));
        page.schema(schema);
    }
    let text = page.text.replace("\n\n\n", "\n\n");
    format!("{}\n", text.trim_end())
}

struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Adds paragraphs or lists.
    fn paragraph(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        for line in text.lines() {
            let indent = if line.starts_with("- ") { "  " } else { "" };
            let mut width = 0;
            for word in line.split(' ') {
                let length = word.chars().count();
                if width > 0 && width + 1 + length > WIDTH {
                    self.text.push('\n');
                    self.text.push_str(indent);
                    width = indent.len();
                } else if width > 0 {
                    self.text.push(' ');
                    width += 1;
                }
                self.text.push_str(word);
                width += length;
            }
            self.text.push('\n');
        }
        self.text.push('\n');
    }

    /// Adds a table, unless it is empty.
    fn table(&mut self, head: &[&str], rows: Vec<Vec<String>>) {
        if rows.is_empty() {
            return;
        }
        let row = |cells: &[String]| format!("| {} |", cells.join(" | "));
        let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
        self.line(&row(&head));
        self.line(&format!("|{}", "---|".repeat(head.len())));
        for cells in rows {
            let cells: Vec<String> = cells.iter().map(|cell| one_line(cell)).collect();
            self.line(&row(&cells));
        }
        self.text.push('\n');
    }

    fn operation(&mut self, method: &str, path: &str, operation: &Value) {
        let method = method.to_uppercase();
        self.line(&format!("### {method} {path}\n"));
        self.paragraph(text(operation, "summary"));
        self.paragraph(text(operation, "description"));
        let role = list(&operation["security"]).first();
        let role = role.and_then(|scheme| scheme["token"][0].as_str());
        let id = text(operation, "operationId");
        let mut facts = format!("Operation `{id}`, role `{}`", role.unwrap_or("none"));
        for (media, body) in members(&operation["requestBody"]["content"]) {
            let _ = write!(facts, ", body `{media}`: {}", format(&body["schema"]));
        }
        if operation["requestBody"]["required"] == false {
            facts.push_str(" (optional)");
        }
        facts.push('.');
        self.paragraph(&facts);
        let parameters = list(&operation["parameters"]).iter();
        let parameters = parameters.map(|parameter| {
            vec![
                format!("`{}`", text(parameter, "name")),
                text(parameter, "in").to_owned(),
                format(&parameter["schema"]),
                text(parameter, "description").to_owned(),
            ]
        });
        self.table(
            &["parameter", "in", "format", "meaning"],
            parameters.collect(),
        );
        let mut problems = Vec::new();
        let mut responses = Vec::new();
        for (status, response) in members(&operation["responses"]) {
            if response.get("$ref").is_some() {
                problems.push(status.as_str());
                continue;
            }
            let content = members(&response["content"]);
            let content =
                content.map(|(media, body)| format!("`{media}`: {}", format(&body["schema"])));
            let content = content.collect::<Vec<_>>().join(", ");
            responses.push(vec![
                status.clone(),
                text(response, "description").to_owned(),
                content,
            ]);
        }
        if !problems.is_empty() {
            responses.push(vec![
                problems.join(", "),
                "A problem".to_owned(),
                "`application/problem+json`: [ProblemV1](#problemv1)".to_owned(),
            ]);
        }
        self.table(&["status", "meaning", "body"], responses);
    }

    fn schema(&mut self, schema: &Value) {
        self.paragraph(text(schema, "description"));
        let kind = format(schema);
        if schema.get("properties").is_none() || schema.get("oneOf").is_some() {
            self.line(&format!("Format: {}.\n", one_line(&kind)));
        }
        self.table(&["member", "format", "meaning"], properties(schema));
    }
}

fn properties(schema: &Value) -> Vec<Vec<String>> {
    let required = list(&schema["required"]);
    let rows = members(&schema["properties"]).map(|(name, member)| {
        let optional = if required.iter().any(|one| one == name) {
            ""
        } else {
            " (optional)"
        };
        vec![
            format!("`{name}`{optional}"),
            format(member),
            text(member, "description").to_owned(),
        ]
    });
    rows.collect()
}

/// Describes the format of values that a schema accepts.
fn format(schema: &Value) -> String {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|path| path.rsplit('/').next())
    {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(value) = schema.get("const") {
        return format!("`{value}`");
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
        return values.join(", ");
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(parts) = schema[key].as_array() {
            let parts: Vec<String> = parts.iter().map(format).collect();
            return parts.join(" or ");
        }
    }
    let kinds = match &schema["type"] {
        Value::String(kind) => vec![kind.as_str()],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return "any value".to_owned(),
    };
    let kinds = kinds.into_iter().map(|kind| match kind {
        "array" => format!("array of {}", format(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("object of {}", format(&schema["additionalProperties"]))
        }
        "object" if schema.get("properties").is_some() => {
            let members = members(&schema["properties"]);
            let members = members.map(|(name, member)| format!("`{name}`: {}", format(member)));
            format!("object with {}", members.collect::<Vec<_>>().join(", "))
        }
        "string" => match (schema["format"].as_str(), schema["pattern"].as_str()) {
            (Some(format), _) => format!("string ({format})"),
            (None, Some(pattern)) => format!("string (`{pattern}`)"),
            (None, None) => "string".to_owned(),
        },
        kind => kind.to_owned(),
    });
    kinds.collect::<Vec<_>>().join(" or ")
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}
