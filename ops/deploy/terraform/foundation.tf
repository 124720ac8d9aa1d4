resource "aws_kms_key" "this" {
  description         = "Vitrine ${var.environment}: database, cache, files, buckets, logs, secrets"
  enable_key_rotation = true
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "Account"
        Effect    = "Allow"
        Principal = { AWS = "arn:${data.aws_partition.here.partition}:iam::${data.aws_caller_identity.me.account_id}:root" }
        Action    = "kms:*"
        Resource  = "*"
      },
      {
        Sid       = "Logs"
        Effect    = "Allow"
        Principal = { Service = "logs.${data.aws_region.here.region}.amazonaws.com" }
        Action    = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
        Resource  = "*"
        Condition = { ArnLike = { "kms:EncryptionContext:aws:logs:arn" = "arn:${data.aws_partition.here.partition}:logs:${data.aws_region.here.region}:${data.aws_caller_identity.me.account_id}:log-group:/vitrine/${var.environment}/*" } }
      },
      {
        Sid       = "Alarms"
        Effect    = "Allow"
        Principal = { Service = "cloudwatch.amazonaws.com" }
        Action    = ["kms:Decrypt", "kms:GenerateDataKey*"]
        Resource  = "*"
        Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.me.account_id } }
      },
    ]
  })
  lifecycle { prevent_destroy = true }
}
resource "aws_kms_alias" "this" {
  name          = "alias/${local.name}"
  target_key_id = aws_kms_key.this.key_id
}
resource "random_password" "this" {
  for_each = toset(["owner", "app", "redis"])
  length   = 40
  special  = false # it becomes a part of a URL
}
resource "aws_secretsmanager_secret" "password" {
  #checkov:skip=CKV2_AWS_57:rotated by hand, in the order that ops/README.md gives
  for_each   = { owner = "database-owner", app = "database-app", redis = "redis" }
  name       = "vitrine/${var.environment}/${each.value}"
  kms_key_id = aws_kms_key.this.arn
}
resource "aws_secretsmanager_secret_version" "password" {
  for_each      = aws_secretsmanager_secret.password
  secret_id     = each.value.id
  secret_string = jsonencode({ password = random_password.this[each.key].result })
}
resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV_AWS_18:only the tasks' roles read and write here; an account that wants each access recorded has CloudTrail's data events
  #checkov:skip=CKV_AWS_144:artefacts are made again from the database, which has backups
  #checkov:skip=CKV2_AWS_62:nobody waits for what is written
  #checkov:skip=CKV2_AWS_6:aws_s3_bucket_public_access_block.this, by for_each
  #checkov:skip=CKV_AWS_21:aws_s3_bucket_versioning.this, by for_each
  #checkov:skip=CKV_AWS_145:aws_s3_bucket_server_side_encryption_configuration.this, by for_each
  #checkov:skip=CKV2_AWS_61:aws_s3_bucket_lifecycle_configuration, one each
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
resource "aws_s3_bucket_lifecycle_configuration" "artefacts" {
  bucket = aws_s3_bucket.this["artefacts"].id
  rule {
    id     = "old-versions"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration { noncurrent_days = 30 }
    abort_incomplete_multipart_upload { days_after_initiation = 2 }
  }
}
resource "aws_s3_bucket_lifecycle_configuration" "archive" {
  bucket = aws_s3_bucket.this["archive"].id
  rule {
    id     = "age"
    status = "Enabled"
    filter {}
    transition {
      days          = 60
      storage_class = "GLACIER_IR"
    }
    expiration { days = var.archive_days }
    noncurrent_version_expiration { noncurrent_days = 30 }
    abort_incomplete_multipart_upload { days_after_initiation = 2 }
  }
}
resource "aws_s3_bucket_policy" "this" {
  for_each = aws_s3_bucket.this
  bucket   = each.value.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "OnlyTls"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [each.value.arn, "${each.value.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}
resource "aws_sns_topic" "this" {
  for_each          = toset(["page", "ticket"])
  name              = "${local.name}-${each.key}"
  kms_master_key_id = aws_kms_key.this.id
}
resource "aws_sns_topic_subscription" "page" {
  count     = var.pagerduty_endpoint == "" ? 0 : 1
  topic_arn = aws_sns_topic.this["page"].arn
  protocol  = "https"
  endpoint  = var.pagerduty_endpoint
}
resource "aws_sns_topic_subscription" "ticket" {
  topic_arn = aws_sns_topic.this["ticket"].arn
  protocol  = "email"
  endpoint  = var.quiet_email
}
