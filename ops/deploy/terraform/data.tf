resource "aws_db_subnet_group" "this" { subnet_ids = aws_subnet.private[*].id }
resource "aws_db_parameter_group" "this" {
  family      = "postgres18"
  description = "Vitrine"
  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }
  dynamic "parameter" {
    for_each = { idle_in_transaction_session_timeout = "300000", log_min_duration_statement = "1000", log_lock_waits = "1" }
    content {
      name  = parameter.key
      value = parameter.value
    }
  }
}
resource "aws_iam_role" "monitoring" {
  name_prefix        = "${local.name}-rds-"
  assume_role_policy = local.assume["monitoring.rds"]
}
resource "aws_iam_role_policy_attachment" "monitoring" {
  role       = aws_iam_role.monitoring.name
  policy_arn = "${local.iam}/service-role/AmazonRDSEnhancedMonitoringRole"
}
resource "aws_db_instance" "this" {
  identifier                          = local.name
  engine                              = "postgres"
  engine_version                      = "18"
  db_name                             = "vitrine"
  instance_class                      = var.database_class
  username                            = "vitrine_owner"
  password                            = random_password.this["owner"].result
  allocated_storage                   = var.database_gigabytes
  max_allocated_storage               = 16000
  storage_type                        = "gp3"
  storage_encrypted                   = true
  kms_key_id                          = aws_kms_key.this.arn
  multi_az                            = true
  backup_retention_period             = var.backup_days
  deletion_protection                 = true
  final_snapshot_identifier           = "${local.name}-final"
  iam_database_authentication_enabled = true
  performance_insights_enabled        = true
  performance_insights_kms_key_id     = aws_kms_key.this.arn
  monitoring_interval                 = 60
  monitoring_role_arn                 = aws_iam_role.monitoring.arn
  enabled_cloudwatch_logs_exports     = ["postgresql", "upgrade"]
  auto_minor_version_upgrade          = true
  copy_tags_to_snapshot               = true
  publicly_accessible                 = false
  backup_window                       = "02:00-02:30"
  maintenance_window                  = "Sun:03:30-Sun:04:30"
  db_subnet_group_name                = aws_db_subnet_group.this.name
  parameter_group_name                = aws_db_parameter_group.this.name
  vpc_security_group_ids              = [aws_security_group.this["database"].id]
}
resource "aws_elasticache_subnet_group" "this" {
  name       = local.name
  subnet_ids = aws_subnet.private[*].id
}
resource "aws_elasticache_parameter_group" "this" {
  name   = local.name
  family = "valkey8"
  parameter {
    name  = "maxmemory-policy"
    value = "volatile-lru"
  }
}
resource "aws_elasticache_replication_group" "this" {
  replication_group_id       = local.name
  description                = "Item features and histories"
  engine                     = "valkey"
  engine_version             = "8.0"
  node_type                  = var.redis_node
  num_node_groups            = 1
  replicas_per_node_group    = var.redis_replicas
  maintenance_window         = "sun:04:30-sun:05:30"
  automatic_failover_enabled = true
  multi_az_enabled           = true
  at_rest_encryption_enabled = true
  transit_encryption_enabled = true
  kms_key_id                 = aws_kms_key.this.arn
  auth_token                 = random_password.this["redis"].result
  subnet_group_name          = aws_elasticache_subnet_group.this.name
  parameter_group_name       = aws_elasticache_parameter_group.this.name
  security_group_ids         = [aws_security_group.this["redis"].id]
}
resource "aws_efs_file_system" "spool" {
  encrypted       = true
  kms_key_id      = aws_kms_key.this.arn
  throughput_mode = "elastic"
  tags            = { Name = "${local.name}-spool" }
  lifecycle { prevent_destroy = true } # acknowledged events may lie in it
}
resource "aws_efs_backup_policy" "spool" {
  file_system_id = aws_efs_file_system.spool.id
  backup_policy { status = "ENABLED" }
}
resource "aws_efs_mount_target" "spool" {
  count           = 2
  file_system_id  = aws_efs_file_system.spool.id
  subnet_id       = aws_subnet.private[count.index].id
  security_groups = [aws_security_group.this["spool"].id]
}
resource "aws_efs_access_point" "spool" {
  file_system_id = aws_efs_file_system.spool.id
  posix_user {
    uid = 10001
    gid = 10001
  }
  root_directory {
    path = "/spool"
    creation_info {
      owner_uid   = 10001
      owner_gid   = 10001
      permissions = "0750"
    }
  }
}
locals {
  host = "${aws_db_instance.this.address}:5432/vitrine?sslmode=require"
  urls = {
    VITRINE_DATABASE_URL       = "postgresql://vitrine_app:${random_password.this["app"].result}@${local.host}"
    VITRINE_DATABASE_OWNER_URL = "postgresql://vitrine_owner:${random_password.this["owner"].result}@${local.host}"
    VITRINE_REDIS_URL          = "rediss://:${random_password.this["redis"].result}@${aws_elasticache_replication_group.this.primary_endpoint_address}:6379/0"
  }
}
resource "aws_secretsmanager_secret" "url" {
  #checkov:skip=CKV2_AWS_57:made of the passwords, which are rotated as ops/README.md says
  for_each   = { VITRINE_DATABASE_URL = "database-url", VITRINE_DATABASE_OWNER_URL = "database-owner-url", VITRINE_REDIS_URL = "redis-url" }
  name       = "vitrine/${var.environment}/${each.value}"
  kms_key_id = aws_kms_key.this.arn
}
resource "aws_secretsmanager_secret_version" "url" {
  for_each      = aws_secretsmanager_secret.url
  secret_id     = each.value.id
  secret_string = local.urls[each.key]
}
