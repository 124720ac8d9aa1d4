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
resource "aws_cloudformation_stack" "alarms" {
  name          = "${local.name}-alarms"
  template_body = file("${path.module}/../cloudformation/alarms.yaml")
  parameters = {
    Environment        = var.environment
    ClusterName        = local.name
    ApiServiceName     = "${local.name}-api"
    LoadBalancerName   = aws_lb.this.arn_suffix
    TargetGroupName    = aws_lb_target_group.this["blue"].arn_suffix
    DatabaseIdentifier = aws_db_instance.this.identifier
    ReplicationGroupId = aws_elasticache_replication_group.this.id
    PageTopicArn       = aws_sns_topic.this["page"].arn
    TicketTopicArn     = aws_sns_topic.this["ticket"].arn
  }
}
