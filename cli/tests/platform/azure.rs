//! Runs the IoT example with `publish`, `up`, `status`, and `down` on a simulated Azure whose VMs
//! are real hosts. Another test kills `up` after each request.

mod end_to_end;
mod jump_host;
mod killed;
mod secrets;
mod simulated;
