//! Which map this agent believes, and its conversation with the map authority.
//!
//! [`MapHolder`] keeps the newest signed map, on disk before anybody uses it; a map that is older, of another cluster or
//! signed by nobody trusted is dropped and counted. [`AuthorityClient`] joins, keeps certificate and volumes, reports
//! each second and takes directives. Without the authority the agent goes on with what the state folder holds.

mod authority;
mod credentials;
mod holder;
mod whereabouts;

pub use authority::{AuthorityClient, AuthorityCounts, AuthorityOptions, Hooks, Install, Volumes};
pub use credentials::{IdentityError, NodeIdentity};
pub use holder::{AdoptError, Adoption, MapCounts, MapHolder, Owner};
pub use whereabouts::Told;
