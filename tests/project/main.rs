//! What can be checked by reading the files of the project: sources, documents, contracts, dependencies.

mod agent_links_no_server;
mod deny;
mod docs;
mod license_and_workflow;
mod log_fields;
mod proto;
mod tidy;
