//! Real components around Aralez.
