//! Tests commands in containers: their processes end when their client has disconnected.

use std::time::Duration;

use futures_util::StreamExt;
use lifecycle_core::runtime::{ExecCommand, ExecOutput};

use crate::stage::Stage;

fn ended(stage: &Stage) -> u64 {
    stage.world.calls().get("end").copied().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_command_is_ended_when_its_client_is_gone() {
    let stage = Stage::new(61).await;
    stage.up().await.unwrap();
    let api = stage.api().await;

    let command = ExecCommand::new(["sh", "-c", "echo one; exit 3"]);
    let finished = api.exec("db", command).await.unwrap();
    let output: Vec<_> = finished.output.map(Result::unwrap).collect().await;
    assert_eq!(output.last(), Some(&ExecOutput::Exit(3)), "{output:?}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(ended(&stage), 0, "a command that has ended was ended again");

    let running = api.exec("db", ExecCommand::new(["yes"])).await.unwrap();
    drop(running);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        ended(&stage),
        1,
        "the command runs although its client is gone"
    );
}
