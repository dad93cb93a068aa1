//! `completions` and `man`: what shells and readers of manuals want to know of the arguments.

use clap::CommandFactory as _;
use lifecycle_core::Error;

use crate::arguments::{Arguments, Completions, Man};
use crate::failure::Failure;
use crate::printer;

/// Completions for a shell.
pub(crate) fn completions(options: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    let mut command = Arguments::command();
    clap_complete::generate(options.shell, &mut command, "bootstrapper", &mut script);
    printer::raw(&script, false)
}

/// A manual page for the program and for each command.
pub(crate) fn man(options: &Man) -> Result<(), Failure> {
    let directory = &options.directory;
    let failed = |error| Error::io(format!("writing to {}", directory.display()), error);
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Arguments::command(), directory).map_err(failed)?;
    printer::talk(&format!(
        "Wrote the manual pages; `man -M` reads them from {} once they are in its man1.",
        directory.display()
    ));
    Ok(())
}
