-- Beside `mlflow`, which PostgreSQL makes itself: users of the tracking server, and studies of sweeps.
CREATE DATABASE mlflow_users;
CREATE DATABASE sweeps;
