//! Tests the tracing span of a request.

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::Served;

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

#[tokio::test(start_paused = true)]
async fn a_log_line_contains_the_method_path_and_status_of_its_request() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let served = Served::standby();
    let token = Some(&served.read);
    served.request("GET", "/healthz", None).await;
    let logs = "/v1/services/secret1/logs?tail=secret2";
    served.request("GET", logs, token).await;
    served.request("POST", "/v1/retry/secret1", None).await;
    served.request("GET", "/v1/secret1/nothing", token).await;

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let responses = lines.filter(|line| line["fields"]["message"] == "responded");
    let spans: Vec<_> = responses.map(|line| line["span"].clone()).collect();
    let span = |method: &str, path: &str, status: u16| json!({"name": "request", "method": method, "path": path, "status": status});
    assert_eq!(
        spans,
        [
            span("GET", "/healthz", 200),
            span("GET", "/v1/services/{name}/logs", 400),
            span("POST", "/v1/retry/{name}", 401),
            json!({"name": "request", "method": "GET", "status": 404}),
        ]
    );
    for secret in ["secret1", "secret2", served.read.expose()] {
        assert!(!text.contains(secret), "{text}");
    }
}
