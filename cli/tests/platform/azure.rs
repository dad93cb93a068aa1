//! Tests platforms on a simulated Azure, whose VMs are local containers.

mod end_to_end;
mod jump_host;
mod killed;
mod mixed;
mod secrets;
mod simulated;
mod users_vm;
