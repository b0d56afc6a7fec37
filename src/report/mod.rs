//! Run records → tables, plots and pages.
