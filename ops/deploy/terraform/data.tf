resource "aws_kms_key" "this" {
  description         = "Vitrine ${var.environment}"
  enable_key_rotation = true
}
resource "random_password" "this" {
  for_each = toset(["owner", "app", "redis"])
  length   = 40
  special  = false
}
resource "aws_s3_bucket" "this" {
  for_each      = toset(["artefacts", "archive"])
  bucket_prefix = "${local.name}-${each.key}-"
  lifecycle { prevent_destroy = true }
}
resource "aws_s3_bucket_versioning" "this" {
  for_each = aws_s3_bucket.this
  bucket   = each.value.id
  versioning_configuration { status = "Enabled" }
}
resource "aws_s3_bucket_public_access_block" "this" {
  for_each                = aws_s3_bucket.this
  bucket                  = each.value.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}
resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = aws_s3_bucket.this
  bucket   = each.value.id
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.this.arn
    }
  }
}
resource "aws_db_subnet_group" "this" { subnet_ids = aws_subnet.private[*].id }
resource "aws_db_parameter_group" "this" {
  family = "postgres18"
  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }
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
  num_cache_clusters         = 2
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
  lifecycle { prevent_destroy = true } # acknowledged events may lie in it
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
  for_each   = toset(["VITRINE_DATABASE_URL", "VITRINE_DATABASE_OWNER_URL", "VITRINE_REDIS_URL"])
  name       = "vitrine/${var.environment}/${lower(each.key)}"
  kms_key_id = aws_kms_key.this.arn
}
resource "aws_secretsmanager_secret_version" "url" {
  for_each      = aws_secretsmanager_secret.url
  secret_id     = each.value.id
  secret_string = local.urls[each.key]
}
