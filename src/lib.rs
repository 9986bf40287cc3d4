pub mod domain;

pub mod config;
pub mod dialect;
pub mod ledger;
pub mod pricing;
pub mod report;
pub mod rollup;
pub mod store;

pub mod cli;
pub mod demo;
