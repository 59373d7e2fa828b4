"""How the tasks of any stage get done; knows no stage and no engine by name."""
