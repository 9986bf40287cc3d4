//! Tests of the store through its front door.
