//! The IoT example on a simulated Azure whose VMs are real hosts, by the same commands as
//! anywhere: published, brought up, asked, killed at every request, taken down.

mod end_to_end;
mod jump_host;
mod killed;
mod secrets;
mod simulated;
