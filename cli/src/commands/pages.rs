//! `completions` and `man`: write shell completions and manual pages.

use clap::CommandFactory as _;
use lifecycle_core::Error;

use crate::arguments::{Arguments, Completions, Man};
use crate::failure::Failure;
use crate::printer;

/// Prints completions for a shell.
pub(crate) fn completions(options: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    let mut command = Arguments::command();
    clap_complete::generate(options.shell, &mut command, "bootstrapper", &mut script);
    printer::raw(&script, false)
}

/// Writes a manual page for the program and for each command.
pub(crate) fn man(options: &Man) -> Result<(), Failure> {
    let directory = &options.directory;
    let failed = |error| Error::io(format!("writing to {}", directory.display()), error);
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Arguments::command(), directory).map_err(failed)?;
    printer::message(&format!(
        "Wrote the manual pages to {}. To read them with `man -M`, move them to a directory named \
         man1.",
        directory.display()
    ));
    Ok(())
}
