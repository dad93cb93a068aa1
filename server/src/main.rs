//! The program `lifecycle-manager`; the library contains its code.

use std::process::ExitCode;

fn main() -> ExitCode {
    lifecycle_manager::main()
}
