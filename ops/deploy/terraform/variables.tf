# The topology of ../cloudformation as one module. Its alarms are CloudFormation's too: alarms.tf
# deploys that template, so that they are defined once.
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
variable "quiet_email" { type = string }
variable "pagerduty_endpoint" {
  type      = string
  default   = ""
  sensitive = true
}
variable "admin_cidr" {
  type    = string
  default = "10.0.0.0/8"
}
variable "network_number" {
  type    = number
  default = 40
  validation {
    condition     = var.network_number >= 0 && var.network_number <= 255
    error_message = "network_number: 0 to 255; the network is 10.NUMBER.0.0/16."
  }
}
variable "database_class" {
  type    = string
  default = "db.m7g.large"
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
variable "redis_node" {
  type    = string
  default = "cache.m7g.large"
}
variable "api_workers" {
  type    = number
  default = 2
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
}
variable "train_schedule" {
  type    = string
  default = "0 3 * * *"
}
data "aws_region" "here" {}
data "aws_caller_identity" "me" {}
data "aws_availability_zones" "all" { state = "available" }
locals {
  name  = "vitrine-${var.environment}"
  zones = slice(data.aws_availability_zones.all.names, 0, 2)
}
