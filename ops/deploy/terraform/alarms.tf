resource "aws_cloudformation_stack" "alarms" {
  #checkov:skip=CKV_AWS_124:Terraform waits for it and says what failed
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
