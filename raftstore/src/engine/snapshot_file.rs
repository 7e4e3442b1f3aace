//! A region's data as one stream of bytes.
