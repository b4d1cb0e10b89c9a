//! What has gone wrong in projects like this one, tried here: a hostile agent or upstream, and the
//! real binary between them. docs/development.md says which attack is covered where.

mod surroundings;
