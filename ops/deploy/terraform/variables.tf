# The topology of ../cloudformation as one module; ../topology.md lists both, resource by resource.
# Its alarms are CloudFormation's too: alarms.tf deploys that template, so that they are defined once.
terraform {
  required_version = ">= 1.7"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.4"
    }
    random = {
      source  = "hashicorp/random"
      version = ">= 3.6"
    }
  }
}
variable "environment" {
  type = string
  validation {
    condition     = contains(["staging", "production"], var.environment)
    error_message = "environment: staging or production."
  }
}
variable "image" {
  type = string
  validation {
    condition     = can(regex("^[^:@ ]+/[^@ ]+([:@].+)$", var.image))
    error_message = "image: REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:..."
  }
}
variable "certificate_arn" {
  type = string
  validation {
    condition     = can(regex("^arn:aws[a-z-]*:acm:.+$", var.certificate_arn))
    error_message = "certificate_arn: of ACM."
  }
}
variable "quiet_email" {
  type = string
  validation {
    condition     = can(regex("^[^@ ]+@[^@ ]+$", var.quiet_email))
    error_message = "quiet_email: NAME@HOST."
  }
}
variable "pagerduty_endpoint" {
  type      = string
  default   = ""
  sensitive = true
  validation {
    condition     = can(regex("^(https://.*)?$", var.pagerduty_endpoint))
    error_message = "pagerduty_endpoint: https://..., or empty for none."
  }
}
variable "admin_cidr" {
  type    = string
  default = "10.0.0.0/8"
  validation {
    condition     = can(cidrhost(var.admin_cidr, 0))
    error_message = "admin_cidr: ADDRESS/BITS."
  }
}
variable "network_number" {
  type    = number
  default = 40
  validation {
    condition     = var.network_number >= 0 && var.network_number <= 255
    error_message = "network_number: 0 to 255; the network is 10.NUMBER.0.0/16."
  }
}
variable "nat_gateways" {
  type    = number
  default = 2
  validation {
    condition     = contains([1, 2], var.nat_gateways)
    error_message = "nat_gateways: 1 is cheaper; 2 outlive the loss of a zone."
  }
}
variable "database_class" {
  type    = string
  default = "db.m7g.large"
  validation {
    condition     = contains(["db.t4g.medium", "db.m7g.large", "db.m7g.xlarge", "db.m7g.2xlarge", "db.r7g.xlarge", "db.r7g.2xlarge"], var.database_class)
    error_message = "database_class: db.t4g.medium, db.m7g.large, db.m7g.xlarge, db.m7g.2xlarge, db.r7g.xlarge or db.r7g.2xlarge."
  }
}
variable "database_gigabytes" {
  type    = number
  default = 200
  validation {
    condition     = var.database_gigabytes >= 50 && var.database_gigabytes <= 8000
    error_message = "database_gigabytes: 50 to 8000."
  }
}
variable "backup_days" {
  type    = number
  default = 14
  validation {
    condition     = var.backup_days >= 7 && var.backup_days <= 35
    error_message = "backup_days: 7 to 35."
  }
}
variable "archive_days" {
  type    = number
  default = 730
  validation {
    condition     = var.archive_days >= 90 && var.archive_days <= 3650
    error_message = "archive_days: 90 to 3650."
  }
}
variable "redis_node" {
  type    = string
  default = "cache.m7g.large"
  validation {
    condition     = contains(["cache.t4g.medium", "cache.m7g.large", "cache.m7g.xlarge", "cache.r7g.large", "cache.r7g.xlarge"], var.redis_node)
    error_message = "redis_node: cache.t4g.medium, cache.m7g.large, cache.m7g.xlarge, cache.r7g.large or cache.r7g.xlarge."
  }
}
variable "redis_replicas" {
  type    = number
  default = 1
  validation {
    condition     = var.redis_replicas >= 1 && var.redis_replicas <= 5
    error_message = "redis_replicas: 1 to 5."
  }
}
variable "api_workers" {
  type    = number
  default = 2
  validation {
    condition     = var.api_workers >= 1 && var.api_workers <= 8
    error_message = "api_workers: 1 to 8 processes a task."
  }
}
variable "api_minimum" {
  type    = number
  default = 2
  validation {
    condition     = var.api_minimum >= 2 && var.api_minimum <= 50
    error_message = "api_minimum: 2 to 50."
  }
}
variable "api_maximum" {
  type    = number
  default = 12
  validation {
    condition     = var.api_maximum >= 2 && var.api_maximum <= 200
    error_message = "api_maximum: 2 to 200."
  }
}
variable "requests_per_task" {
  type    = number
  default = 90000
  validation {
    condition     = var.requests_per_task >= 1000 && var.requests_per_task <= 500000
    error_message = "requests_per_task: 1000 to 500000 a minute."
  }
}
variable "worker_memory" {
  type    = number
  default = 8192
  validation {
    condition     = contains([4096, 8192, 16384], var.worker_memory)
    error_message = "worker_memory: 4096, 8192 or 16384 MiB: what two processors may have."
  }
}
variable "worker_maximum" {
  type    = number
  default = 4
  validation {
    condition     = var.worker_maximum >= 1 && var.worker_maximum <= 20
    error_message = "worker_maximum: 1 to 20."
  }
}
variable "log_days" {
  type    = number
  default = 30
  validation {
    condition     = contains([7, 14, 30, 60, 90, 365], var.log_days)
    error_message = "log_days: 7, 14, 30, 60, 90 or 365."
  }
}
variable "train_schedule" {
  type    = string
  default = "0 3 * * *"
  validation {
    condition     = can(regex("^(\\S+ ){4,5}\\S+$", var.train_schedule))
    error_message = "train_schedule: cron, UTC."
  }
}
data "aws_region" "here" {}
data "aws_partition" "here" {}
data "aws_caller_identity" "me" {}
data "aws_availability_zones" "all" {
  #checkov:skip=CKV_AWS_394:the first two are taken, as CloudFormation does
  state = "available"
}
locals {
  name  = "vitrine-${var.environment}"
  zones = slice(data.aws_availability_zones.all.names, 0, 2)
  iam   = "arn:${data.aws_partition.here.partition}:iam::aws:policy"
  # Who may take a role, by the service's name.
  assume = { for service in ["ecs-tasks", "ecs", "monitoring.rds", "vpc-flow-logs"] : service => jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Principal = { Service = "${service}.amazonaws.com" }, Action = "sts:AssumeRole" }]
  }) }
}
