//! The bootstrapper's command line: parses arguments, calls `lifecycle-core`, and prints the
//! result.

mod arguments;
mod commands;
mod confirm;
mod documents;
mod failure;
mod identity;
mod paint;
mod printer;
mod progress;
mod project;
mod simulated_azure;
mod table;
mod terminal;
mod trust;
mod wiring;

use std::process::ExitCode;

use clap::Parser;
use lifecycle_core::bootstrap::ExitStatus;
use lifecycle_core::model::ServiceClass;

use crate::arguments::{Arguments, Command};
use crate::failure::Failure;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return printer::usage(&error),
    };
    printer::choose_colors(arguments.color);
    // rustls needs a process-wide crypto provider. The call fails only if a provider is installed
    // already, so ignore the result.
    drop(rustls::crypto::ring::default_provider().install_default());
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("LIFECYCLE_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error")),
        )
        .with_writer(std::io::stderr)
        .init();
    let outcome = match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let outcome = runtime.block_on(async {
                if let Command::AzureSimulator(options) = &arguments.command {
                    // The simulator handles signals itself, because it has to clean up before it
                    // exits.
                    return commands::azure_simulator::run(&arguments, options).await;
                }
                tokio::select! {
                    outcome = run(&arguments) => outcome,
                    _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
                }
            });
            // Do not wait for threads that read a file: a read may block forever, for example on a
            // pipe.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(lifecycle_core::Error::io("starting the runtime", error).into()),
    };
    // Interrupting one of these commands is the normal way to end it, so print no error.
    let ends_silently = matches!(
        arguments.command,
        Command::Logs(_)
            | Command::Events(_)
            | Command::Status(_)
            | Command::Why(_)
            | Command::Exec(_)
    );
    match outcome {
        Err(Failure::Interrupted) if ends_silently => Failure::Interrupted.code(),
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(failure @ (Failure::CommandEnded(_) | Failure::AlreadyReported)) => failure.code(),
        Err(failure) => {
            printer::failure(&failure, arguments.json);
            match (&arguments.command, &failure) {
                (_, Failure::Interrupted) => failure.code(),
                (Command::Exec(_), _) => ExitStatus::NotRun.code().into(),
                _ => failure.code(),
            }
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::Init(options) => commands::init::run(arguments, options).await,
        Command::Doctor => commands::doctor::run(arguments).await,
        Command::Schema(options) => commands::schema::run(options),
        Command::Completions(options) => commands::pages::completions(options),
        Command::Man(options) => commands::pages::man(options),
        Command::Plan(options) => commands::plan::run(arguments, options).await,
        Command::Up(options) => commands::up::run(arguments, options).await,
        Command::Publish(options) => commands::publish::run(arguments, options).await,
        Command::Status(options) => commands::status::run(arguments, options).await,
        Command::Why(options) => commands::why::run(arguments, options).await,
        Command::Events(options) => commands::events::run(arguments, options).await,
        Command::Logs(options) => commands::logs::run(arguments, options).await,
        Command::Exec(options) => commands::exec::run(arguments, options).await,
        Command::Restart(options) => commands::restart::run(arguments, options).await,
        Command::Scale(options) => commands::overrides::scale(arguments, options).await,
        Command::Stop(options) => commands::overrides::stop(arguments, options).await,
        Command::Start(options) => commands::overrides::start(arguments, options).await,
        Command::Override(options) => commands::overrides::run(arguments, options).await,
        Command::Export(options) => commands::export::run(arguments, options).await,
        Command::History => commands::revisions::history(arguments).await,
        Command::Rollback(options) => commands::revisions::rollback(arguments, options).await,
        Command::Service(options) => {
            commands::class::run(arguments, ServiceClass::Microservice, options).await
        }
        Command::App(options) => {
            commands::class::run(arguments, ServiceClass::Application, options).await
        }
        Command::Model(options) => {
            commands::class::run(arguments, ServiceClass::Model, options).await
        }
        Command::Node(options) => commands::node::run(arguments, options).await,
        Command::Rollout(options) => commands::rollout::run(arguments, options).await,
        Command::Operation(options) => commands::operation::run(arguments, options).await,
        Command::Retry(options) => commands::retry::run(arguments, options).await,
        Command::Token(options) => commands::token::run(arguments, options).await,
        Command::Rotate(options) => commands::rotate::run(arguments, options).await,
        Command::Down(options) => commands::down::run(arguments, options).await,
        Command::AzureSimulator(options) => {
            commands::azure_simulator::run(arguments, options).await
        }
    }
}
