//! The two binaries `headgated` and `headgate`, and the API between them.
