//! The code store on Azure Files, against the simulator.

mod bench;
mod conformance;
mod credentials;
mod faults;
mod microsoft;
mod plain;
mod publish;
mod wire;
