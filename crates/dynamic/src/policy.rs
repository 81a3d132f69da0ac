//! Which action starts where, and when both sides try: predictions, budgets and their reasons.
