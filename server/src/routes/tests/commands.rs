//! Tests commands in containers through the API.

use std::time::Duration;

use futures_util::StreamExt as _;
use lifecycle_core::api::ManagerApi as _;
use lifecycle_core::runtime::ExecCommand;

use super::Served;
use super::client::client;

#[tokio::test(start_paused = true)]
async fn a_stopping_manager_ends_commands_and_reports_that() {
    let served = Served::ready().await;
    let api = client(&served.router, &served.admin);
    let command = ExecCommand::new(["sleep", "infinity"]);
    let mut running = api.exec("web", command).await.unwrap();
    let (last, ended) = tokio::join!(
        running.output.next(),
        tokio::time::timeout(Duration::from_mins(1), served.manager.end_commands()),
    );
    let error = last.unwrap().unwrap_err();
    assert!(
        error.chain().contains("the manager is stopping"),
        "{error:?}"
    );
    assert!(ended.is_ok(), "a command is still running");
}
