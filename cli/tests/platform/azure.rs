//! Runs the IoT example on a simulated Azure whose VMs are real hosts, with the commands publish,
//! up, status, and down. Also kills `up` after each request.

mod end_to_end;
mod jump_host;
mod killed;
mod secrets;
mod simulated;
