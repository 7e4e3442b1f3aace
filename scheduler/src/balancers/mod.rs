//! Balancers look at all stores and move what is spread unevenly.
//!
//! They only propose; limits and collisions are the business of [`crate::operator::running`].

pub mod hot;
pub mod leaders;
pub mod regions;
pub mod score;

#[cfg(test)]
mod first_move;
#[cfg(test)]
mod script;
#[cfg(test)]
mod tests;
