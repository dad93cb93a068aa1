//! The domain types. Their values are validated on creation, so other modules need not check them
//! again.

mod build;
mod chunk;
mod connection;
pub(crate) mod container;
mod endpoint;
mod event;
mod id;
mod instance;
mod kind;
mod mount;
mod node;
mod operation;
mod owner;
mod public_port;
pub(crate) mod service;
mod token;
mod update;

pub use crate::epoch::Epoch;
pub use crate::error::InvalidName;
pub use build::{BuildOptions, BuildSource, CodeBaseRef};
pub use chunk::{Chunk, ChunkDigest, Chunks};
pub use connection::{Connection, NetworkMode};
pub use container::{
    BlockIo, CgroupNamespace, DeviceMapping, DeviceRequest, Devices, Isolation, KernelLimits,
    Logging, Terminal, Ulimit,
};
pub use endpoint::{Endpoint, Protocol};
pub use event::{Event, EventKind, NewEvent, Subject};
pub use id::{
    Generation, InstanceId, NodeName, PlatformId, PlatformName, Replica, ServiceName, TokenId,
    TokenName, VolumeName,
};
pub use instance::{ContainerId, InstanceRecord, InstanceState, SpecDigest};
pub use kind::Kind;
pub use mount::{
    FileContents, FileTree, MemoryMount, NodeMount, ShippedFile, ShippedMount, TreeEntry,
    VolumeMount, VolumeOptions,
};
pub use node::{Addresses, Existing, NodeRequest, NodeSpec, Origin, Resources, Scheduling};
pub use operation::{ContainerRun, Operation, OperationId, OperationKind, OperationState};
pub use owner::Owner;
pub use public_port::{PublicPort, PublicPorts};
pub use service::{
    ApiAccess, Constraint, ConstraintOperator, ContainerTemplate, DEFAULT_STOP_GRACE,
    DependencyCondition, Healthcheck, HealthcheckTest, HttpReadiness, ImageSource, PortChoice,
    PublishedPort, RestartPolicy, Secrets, ServiceClass, ServiceSpec, Starts,
};
pub use token::{ApiToken, TokenRole, TokenScope};
pub use update::{
    OnFailure, Replacement, ReplacementOrder, RolloutControl, RolloutRequest, UpdatePolicy,
};
