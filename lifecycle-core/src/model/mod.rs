//! The words of the domain as types. Raw strings stop here: a value of one of
//! these types has been validated once and needs no second look.

mod endpoint;
mod event;
mod id;
mod instance;
mod node;
mod operation;
pub(crate) mod service;

pub use endpoint::{Endpoint, Protocol};
pub use event::{Event, EventKind, NewEvent, Subject};
pub use id::{
    Epoch, Generation, InstanceId, InvalidName, NodeName, PlatformId, PlatformName, Replica,
    ServiceName, VolumeName,
};
pub use instance::{ContainerId, InstanceRecord, InstanceState, SpecDigest};
pub use node::{Addresses, NodeSpec, Origin, Resources};
pub use operation::{ContainerRun, Operation, OperationId, OperationKind, OperationState};
pub use service::{
    ApiAccess, BuildSource, Constraint, ConstraintOperator, ContainerTemplate, DependencyCondition,
    Healthcheck, HealthcheckTest, HttpReadiness, ImageSource, PublishedPort, RestartPolicy,
    ServiceClass, ServiceSpec, Starts, VolumeMount,
};
