//! Single courses of races, told as data.
