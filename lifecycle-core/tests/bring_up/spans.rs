//! Tests that log lines are within the spans `up`, `plan`, `step`, and `engine call`, and that
//! these spans have their fields.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::stage::Stage;

/// Collects the log of a test.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        let text = self.text();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// Returns the span with this name that contains the log line, if there is such a span.
fn span<'a>(line: &'a Value, name: &str) -> Option<&'a Value> {
    let mut spans = line["spans"].as_array().into_iter().flatten();
    spans.find(|span| span["name"] == name)
}

fn message(line: &Value) -> &str {
    line["fields"]["message"].as_str().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_log_line_names_the_step_and_its_node() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::DEBUG)
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let stage = Stage::new(1).await;
    stage.up().await.unwrap();
    let lines = log.lines();

    let builds = lines.iter().filter(|l| message(l).starts_with("building "));
    let builds: Vec<_> = builds.collect();
    assert!(!builds.is_empty(), "{}", log.text());
    for line in builds {
        let step = span(line, "step").unwrap();
        let node = step["node"].as_str().unwrap();
        let id = step["id"].as_str().unwrap();
        assert!(id.starts_with(&format!("node/{node}/image/")), "{line}");
        // A step is not within the `plan` span: it may take longer than the planning round that
        // started it.
        assert!(span(line, "plan").is_none(), "{line}");
        let call = span(line, "engine call").unwrap();
        assert_eq!(call["call"], "build_image", "{line}");
        assert_eq!(call["node"], node, "{line}");
    }

    let manager = stage.declaration.manager.node.as_str();
    let id = stage.declaration.id.to_string();
    let step = format!("node/{manager}/provision");
    let is_provision = |line: &&Value| span(line, "step").is_some_and(|s| s["id"] == step.as_str());
    let up = span(lines.iter().find(is_provision).unwrap(), "up").unwrap();
    assert_eq!(up["platform"], "demo");
    assert_eq!(up["id"], id.as_str());

    let ends = |name: &'static str| {
        let ends = lines.iter().filter(|line| message(line) == "close");
        ends.filter(move |line| line["span"]["name"] == name)
    };
    assert_eq!(ends("up").count(), 1);
    assert!(ends("plan").any(|line| line["span"]["generation"] == 1));
    let mut calls = ends("engine call");
    assert!(calls.any(|line| line["span"]["call"] == "ensure_container"));

    let secrets = stage.bootstrapper().await.secrets;
    let (admin, ssh) = (&secrets.admin_token, &secrets.ssh.private);
    for secret in [admin.expose(), ssh.expose(), secrets.key.to_hex().expose()] {
        assert!(!log.text().contains(secret));
    }
}
