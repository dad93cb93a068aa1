//! The IoT example on a simulated Azure whose VMs are real hosts, with the commands that work
//! everywhere: publish, up, status, `up` killed after each request, down.

mod end_to_end;
mod jump_host;
mod killed;
mod secrets;
mod simulated;
