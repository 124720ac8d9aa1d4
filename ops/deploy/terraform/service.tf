resource "aws_ecs_cluster" "this" {
  name = local.name
  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}
resource "aws_ecs_cluster_capacity_providers" "this" {
  cluster_name       = aws_ecs_cluster.this.name
  capacity_providers = ["FARGATE", "FARGATE_SPOT"]
}
resource "aws_cloudwatch_log_group" "tasks" {
  #checkov:skip=CKV_AWS_338:no audit reads it; the audit of changes is in the database
  name              = "/vitrine/${var.environment}/tasks"
  retention_in_days = var.log_days
  kms_key_id        = aws_kms_key.this.arn
}
locals {
  objects = "${aws_s3_bucket.this["artefacts"].arn}/*"
  archive = "${aws_s3_bucket.this["archive"].arn}/*"
  key     = { Effect = "Allow", Action = ["kms:Decrypt", "kms:GenerateDataKey"], Resource = aws_kms_key.this.arn }
  list    = { Effect = "Allow", Action = ["s3:ListBucket"], Resource = [for one in aws_s3_bucket.this : one.arn] }
  roles = {
    api = [
      local.key, local.list,
      { Effect = "Allow", Action = ["s3:GetObject"], Resource = [local.objects] },
      { Effect = "Allow", Action = ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"], Resource = [aws_efs_file_system.spool.arn] },
    ]
    worker = [
      local.key, local.list,
      { Effect = "Allow", Action = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], Resource = [local.objects, local.archive] },
    ]
    execution = [
      local.key,
      { Effect = "Allow", Action = ["secretsmanager:GetSecretValue"], Resource = [for one in aws_secretsmanager_secret.url : one.arn] },
    ]
  }
  stores = [for name in ["VITRINE_DATABASE_URL", "VITRINE_REDIS_URL"] : { name = name, valueFrom = aws_secretsmanager_secret.url[name].arn }]
  shared = {
    VITRINE_ARTEFACTS_URL    = "s3://${aws_s3_bucket.this["artefacts"].id}"
    VITRINE_EMBEDDED_METRICS = local.name
  }
  tasks = {
    api = {
      command     = ["serve"], cpu = 2048, memory = 4096, role = "api", secrets = local.stores, stop = 60
      environment = merge(local.shared, { VITRINE_WORKERS = tostring(var.api_workers), VITRINE_EVENT_SPOOL = "/spool", VITRINE_TRUSTED_PROXIES = "10.0.0.0/8", VITRINE_DRAIN_SECONDS = "15", VITRINE_GRACE_SECONDS = "30" })
    }
    worker = {
      command     = ["worker", "--grace", "100"], cpu = 2048, memory = var.worker_memory, role = "worker", secrets = local.stores, stop = 120
      environment = merge(local.shared, { VITRINE_TRAIN_SCHEDULE = "" })
    }
    scheduler = {
      command     = ["worker"], cpu = 512, memory = 2048, role = "worker", secrets = local.stores, stop = 60
      environment = merge(local.shared, { VITRINE_WORKER_JOBS = "1", VITRINE_TRAIN_SCHEDULE = var.train_schedule })
    }
    migrate = {
      command = ["migrate", "up"], cpu = 512, memory = 1024, role = null, environment = {}, stop = 30
      secrets = concat(local.stores, [{ name = "VITRINE_DATABASE_OWNER_URL", valueFrom = aws_secretsmanager_secret.url["VITRINE_DATABASE_OWNER_URL"].arn }])
    }
  }
}
resource "aws_iam_role" "this" {
  for_each           = local.roles
  name_prefix        = "${local.name}-${each.key}-"
  assume_role_policy = local.assume["ecs-tasks"]
}
resource "aws_iam_role_policy" "this" {
  for_each = local.roles
  role     = aws_iam_role.this[each.key].id
  policy   = jsonencode({ Version = "2012-10-17", Statement = each.value })
}
resource "aws_iam_role_policy_attachment" "execution" {
  role       = aws_iam_role.this["execution"].name
  policy_arn = "${local.iam}/service-role/AmazonECSTaskExecutionRolePolicy"
}
resource "aws_iam_role" "swap" {
  name_prefix        = "${local.name}-swap-"
  assume_role_policy = local.assume["ecs"]
}
resource "aws_iam_role_policy_attachment" "swap" {
  role       = aws_iam_role.swap.name
  policy_arn = "${local.iam}/AmazonECSInfrastructureRolePolicyForLoadBalancers"
}
resource "aws_ecs_task_definition" "this" {
  for_each                 = local.tasks
  family                   = "${local.name}-${each.key}"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = each.value.cpu
  memory                   = each.value.memory
  execution_role_arn       = aws_iam_role.this["execution"].arn
  task_role_arn            = each.value.role == null ? null : aws_iam_role.this[each.value.role].arn
  dynamic "ephemeral_storage" {
    for_each = each.key == "worker" ? [100] : [] # fits read a shop's whole history
    content { size_in_gib = ephemeral_storage.value }
  }
  volume {
    name = "home"
  }
  volume {
    name = "tmp"
  }
  dynamic "volume" {
    for_each = each.key == "api" ? [1] : []
    content {
      name = "spool"
      efs_volume_configuration {
        file_system_id     = aws_efs_file_system.spool.id
        transit_encryption = "ENABLED"
        authorization_config {
          access_point_id = aws_efs_access_point.spool.id
          iam             = "ENABLED"
        }
      }
    }
  }
  container_definitions = jsonencode([{
    name                   = "vitrine"
    image                  = var.image
    command                = each.value.command
    essential              = true
    readonlyRootFilesystem = true
    user                   = "10001:10001"
    stopTimeout            = each.value.stop
    portMappings           = each.key == "api" ? [{ containerPort = 8000 }] : []
    mountPoints = concat(
      [{ sourceVolume = "home", containerPath = "/var/lib/vitrine" }, { sourceVolume = "tmp", containerPath = "/tmp" }],
      each.key == "api" ? [{ sourceVolume = "spool", containerPath = "/spool" }] : []
    )
    environment = [for name, value in each.value.environment : { name = name, value = value }]
    secrets     = each.value.secrets
    logConfiguration = {
      logDriver = "awslogs"
      options   = { awslogs-group = aws_cloudwatch_log_group.tasks.name, awslogs-region = data.aws_region.here.region, awslogs-stream-prefix = each.key, mode = "non-blocking" }
    }
  }])
}
resource "aws_ecs_service" "api" {
  name                              = "${local.name}-api"
  cluster                           = aws_ecs_cluster.this.id
  task_definition                   = aws_ecs_task_definition.this["api"].arn
  launch_type                       = "FARGATE"
  desired_count                     = var.api_minimum
  health_check_grace_period_seconds = 120
  enable_ecs_managed_tags           = true
  propagate_tags                    = "SERVICE"
  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }
  deployment_configuration {
    strategy             = "BLUE_GREEN"
    bake_time_in_minutes = 10
  }
  alarms {
    enable      = true
    rollback    = true
    alarm_names = split(",", aws_cloudformation_stack.alarms.outputs["RollbackAlarms"])
  }
  network_configuration {
    subnets         = aws_subnet.private[*].id
    security_groups = [aws_security_group.this["service"].id]
  }
  load_balancer {
    container_name   = "vitrine"
    container_port   = 8000
    target_group_arn = aws_lb_target_group.this["blue"].arn
    advanced_configuration {
      alternate_target_group_arn = aws_lb_target_group.this["green"].arn
      production_listener_rule   = aws_lb_listener_rule.production.arn
      role_arn                   = aws_iam_role.swap.arn
    }
  }
  lifecycle { ignore_changes = [desired_count] }
}
resource "aws_ecs_service" "background" {
  for_each                           = toset(["worker", "scheduler"])
  name                               = "${local.name}-${each.key}"
  cluster                            = aws_ecs_cluster.this.id
  task_definition                    = aws_ecs_task_definition.this[each.key].arn
  launch_type                        = "FARGATE"
  desired_count                      = 1
  deployment_minimum_healthy_percent = 0
  deployment_maximum_percent         = 200
  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }
  network_configuration {
    subnets         = aws_subnet.private[*].id
    security_groups = [aws_security_group.this["service"].id]
  }
  lifecycle { ignore_changes = [desired_count] }
}
resource "aws_appautoscaling_target" "api" {
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${aws_ecs_cluster.this.name}/${aws_ecs_service.api.name}"
  min_capacity       = var.api_minimum
  max_capacity       = var.api_maximum
}
resource "aws_appautoscaling_policy" "processor" {
  name               = "processor"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = aws_appautoscaling_target.api.resource_id
  target_tracking_scaling_policy_configuration {
    target_value       = 50
    scale_in_cooldown  = 300
    scale_out_cooldown = 30
    predefined_metric_specification { predefined_metric_type = "ECSServiceAverageCPUUtilization" }
  }
}
resource "aws_appautoscaling_policy" "requests" {
  name               = "requests"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = aws_appautoscaling_target.api.resource_id
  target_tracking_scaling_policy_configuration {
    target_value       = var.requests_per_task
    scale_in_cooldown  = 300
    scale_out_cooldown = 30
    predefined_metric_specification {
      predefined_metric_type = "ALBRequestCountPerTarget"
      resource_label         = "${aws_lb.this.arn_suffix}/${aws_lb_target_group.this["blue"].arn_suffix}"
    }
  }
}
resource "aws_appautoscaling_policy" "latency" {
  name               = "latency"
  policy_type        = "StepScaling"
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = aws_appautoscaling_target.api.resource_id
  step_scaling_policy_configuration {
    adjustment_type          = "PercentChangeInCapacity"
    cooldown                 = 60
    min_adjustment_magnitude = 1
    step_adjustment {
      metric_interval_lower_bound = 0
      metric_interval_upper_bound = 0.1
      scaling_adjustment          = 25
    }
    step_adjustment {
      metric_interval_lower_bound = 0.1
      scaling_adjustment          = 50
    }
  }
}
resource "aws_cloudwatch_metric_alarm" "latency" {
  alarm_name          = "${local.name}-latency-high"
  alarm_description   = "Scales the API out; wakes nobody"
  namespace           = "AWS/ApplicationELB"
  metric_name         = "TargetResponseTime"
  dimensions          = { LoadBalancer = aws_lb.this.arn_suffix }
  extended_statistic  = "p99"
  period              = 60
  evaluation_periods  = 2
  threshold           = 0.1
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_appautoscaling_policy.latency.arn]
}
resource "aws_appautoscaling_target" "worker" {
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${aws_ecs_cluster.this.name}/${aws_ecs_service.background["worker"].name}"
  min_capacity       = 1
  max_capacity       = var.worker_maximum
}
resource "aws_appautoscaling_policy" "jobs" {
  name               = "jobs"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = aws_appautoscaling_target.worker.resource_id
  target_tracking_scaling_policy_configuration {
    target_value      = 2
    scale_in_cooldown = 900
    customized_metric_specification {
      namespace   = "Vitrine"
      metric_name = "vitrine_jobs_waiting"
      statistic   = "Maximum"
      dimensions {
        name  = "ClusterName"
        value = aws_ecs_cluster.this.name
      }
    }
  }
}
output "address" { value = aws_lb.this.dns_name }
output "cluster" { value = aws_ecs_cluster.this.name }
output "migrate_task" { value = aws_ecs_task_definition.this["migrate"].arn }
